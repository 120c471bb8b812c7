"""A source of images of your own: a folder with `labels.csv`, whose columns are `file` and `label`.

`rtk data prepare FOLDER --out data/mine --plugin my_source.py`
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rtk.data.prepare.records import Record, Source, Split
from rtk.data.prepare.sources import SourceKind, register


def recognises(path: Path) -> bool:
    """Whether a path is of this kind; it is asked before rtk's own kinds."""
    return (path / "labels.csv").is_file()


def open_table(path: Path) -> Source:
    """Read the table; the images are read later, one by one."""
    with (path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file"], row["label"]) for row in csv.DictReader(file)]
    classes = tuple(sorted({label for _, label in rows}))
    split = Split("all", len(rows), partial(read, path, rows, classes))
    return Source("folder with labels.csv", classes, (split,), has_paths=True)


def read(path: Path, rows: list[tuple[str, str]], classes: tuple[str, ...]) -> Iterator[Record]:
    """One record an image: a file (or its bytes, or pixels), its class, and what errors call it."""
    for file, label in rows:
        yield Record(path / file, classes.index(label), origin=file, path=file)


register(SourceKind("labels_csv", recognises, open_table, "a folder of images with labels.csv (file, label)"))
