"""Some classes, or some images, of a prepared set as a set of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtk.data.image import open_image, read_info
from rtk.data.prepare.parquet_writer import ImageRow, write_parquet
from rtk.data.sets.dataset import CLASSES_FILE, ImageDataset, labels, read_rows


def choose_images(
    source: ImageDataset,
    classes: Sequence[str],
    folder: Path,
    name: str,
    most: int | None = None,
    seed: int = 0,
) -> int:
    """Write the images of some classes, or an equal number of each, as `folder/NAME.parquet`.

    Labels become numbers of `classes`, which `folder/classes.json` holds; images keep their bytes, ids and
    paths. One row group is in memory at a time.

    Args:
        source: labelled images.
        classes: names of the classes to keep, in the order of the new labels.
        folder: where to; made if need be.
        name: of the file, without its ending.
        most: images to keep; None: all of these classes.
        seed: of the choice.

    Returns:
        How many were written.

    Raises:
        ValueError: a class is not one of the source's, or no image has one of them.
    """
    missing = [each for each in classes if each not in source.classes]
    if missing:
        raise ValueError(f"{source.path}: has no class {missing[0]!r}, wanted of {', '.join(source.classes)}")
    places = {source.classes.index(each): number for number, each in enumerate(classes)}
    rows = balanced_rows(labels(source), list(places), most, seed)
    if not len(rows):
        raise ValueError(f"{source.path}: no image is of {', '.join(classes)}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLASSES_FILE).write_text(json.dumps({"classes": list(classes)}), encoding="utf-8")
    with_path = "path" in source.columns
    write_parquet(folder, f"{name}.parquet", _rows(source, rows, places), len(classes), with_path)
    return len(rows)


def balanced_rows(
    values: NDArray[np.int64], wanted: Sequence[int], most: int | None, seed: int
) -> NDArray[np.int64]:
    """Ascending row numbers of some labels, at most so many, drawn from each label in turn.

    Args:
        values: labels (N,).
        wanted: labels to draw from.
        most: rows to draw; None: all.
        seed: of the choice.
    """
    rows = np.flatnonzero(np.isin(values, wanted))
    order = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(rows)
    turn = np.zeros(len(order), np.int64)
    for label in wanted:
        own = values[order] == label
        turn[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(turn, kind="stable")][:most])


def _rows(source: ImageDataset, rows: NDArray[np.int64], places: Mapping[int, int]) -> Iterator[ImageRow]:
    for row in read_rows(source, rows):
        known = row.number if row.sample_id is None else row.sample_id
        yield ImageRow(row.image, places[row.label], known, row.path, read_info(open_image(row.image)))
