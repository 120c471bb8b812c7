"""Parquet that others wrote as a source, above all that of the `datasets` library (Hugging Face)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtk.data.image_files import is_hidden
from rtk.data.prepare.layout import UNLABELLED
from rtk.data.prepare.records import Record, Source, Split
from rtk.data.sets.columns import class_names, image_bytes, image_column, is_text, label_column
from rtk.data.sets.dataset import CLASSES_FILE, READ_ROWS, check_range, find_classes
from rtk.data.sets.of_run import blamed_on
from rtk.data.sets.storage import blamed_on_file, locate, read_groups
from rtk.runs.bounded_parquet import BoundedParquet, check_expansion, open_bounded

NO_CLASSES = "none"
_PART = re.compile(r"-\d{5}-of-\d{5}$")  # train-00000-of-00002


@dataclass(frozen=True)
class _File:
    """One file, with what is known of its rows before an image is read."""

    path: Path
    image: str
    labels: np.ndarray

    @property
    def split(self) -> str:
        return _PART.sub("", self.path.stem)


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files at a path, by name: itself, those in it, or those in its only folder (`data/`)."""
    if not path.is_dir():
        return [path] if path.suffix == ".parquet" else []
    visible = sorted(entry for entry in path.iterdir() if not is_hidden(entry.name))
    found = [entry for entry in visible if entry.suffix == ".parquet" and entry.is_file()]
    folders = [entry for entry in visible if entry.is_dir()]
    return parquet_files(folders[0]) if not found and len(folders) == 1 else found


def is_foreign(path: Path) -> bool:
    """Whether Parquet is not rtk's own: columns of other names or types, or no `classes.json` beside it."""
    files = parquet_files(path)
    if not files:
        return False
    try:
        schema = pq.read_schema(_place(files[0]))
    except pa.ArrowInvalid:
        return False  # no Parquet: rtk's own reader names it
    own = {"image", "label"} <= set(schema.names)
    own = own and pa.types.is_integer(schema.field("label").type)
    own = own and not pa.types.is_struct(schema.field("image").type)
    return not own or not (files[0].parent / CLASSES_FILE).is_file()


def open_foreign_parquet(path: Path, *, classes_from: str | None = None) -> Source:
    """Open Parquet with a column of encoded images (binary, or struct `{bytes, path}`) and one of classes.

    Classes are strings, or integers with the names that the `datasets` library keeps in the schema; without
    names they are called by their numbers. A file is a split; `train-00000-of-00002` is a part of `train`.

    Args:
        path: a file or a folder of them.
        classes_from: column with the classes, or `none`; None: found out where that is clear.

    Raises:
        ValueError: a column is missing or unclear, files disagree, they expand hugely, or a label is missing
            or out of range.
    """
    paths = parquet_files(path)
    schemas = [pq.read_schema(_place(file)) for file in paths]
    images = []
    for file, schema in zip(paths, schemas, strict=True):
        with blamed_on(str(file)):
            images.append(image_column(schema))
    classes: tuple[str, ...] = (UNLABELLED,)
    shown: tuple[str, ...] = ()
    kept = set(images)
    rows = [pq.read_metadata(_place(file)).num_rows for file in paths]
    stored = sum(file.stat().st_size for file in paths)
    check_expansion(path, f"labels of {sum(rows):,} rows", 8 * sum(rows), stored)
    if classes_from == NO_CLASSES:
        labels = [np.zeros(count, np.int64) for count in rows]
    else:
        with blamed_on(str(paths[0])):
            column = label_column(schemas[0], classes_from)
        classes, labels = _read_labels(paths, schemas, column)
        kept, shown = kept | {column}, _shown(column, classes)
    files = [_File(*each) for each in zip(paths, images, labels, strict=True)]
    splits = []
    for name, group in groupby(files, lambda file: file.split):
        parts = tuple(group)
        splits.append(Split(name, sum(len(part.labels) for part in parts), partial(_read, parts)))
    ignored = tuple(f"column {name}" for name in schemas[0].names if name not in kept)
    groups = partial(read_groups, locate(str(paths[0]))[0], [_place(file) for file in paths])
    return Source("Parquet of others", classes, tuple(splits), True, ignored, shown, groups)


def _place(file: Path) -> str:
    return locate(str(file))[1]


def _shown(column: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    names = ", ".join(classes[:10]) + (f", and {len(classes) - 10} more" if len(classes) > 10 else "")
    return (f"{len(classes)} classes from column {column}: {names}",)


def _read_labels(
    paths: list[Path], schemas: list[pa.Schema], column: str
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Class names, and the labels of each file, int64 (rows,)."""
    values = []
    for file, schema in zip(paths, schemas, strict=True):
        if column not in schema.names:
            raise ValueError(f"{file}: column {column!r} is missing; it has {', '.join(schema.names)}")
        with blamed_on_file(file), open_bounded(_place(file)) as parquet:
            read = parquet.table([column])[column]
        if read.null_count:
            raise ValueError(f"{file}: column {column!r} has {read.null_count} missing values")
        values.append(read.cast(pa.string() if is_text(read.type) else pa.int64()))
    if len({value.type for value in values}) > 1:
        raise ValueError(
            f"{paths[0].parent}: column {column!r} holds strings in some files, integers in others"
        )
    if values[0].type == pa.string():
        classes = tuple(sorted(set().union(*(pc.unique(value).to_pylist() for value in values))))
        return classes, [
            pc.index_in(value, pa.array(classes)).to_numpy().astype(np.int64) for value in values
        ]
    labels = [value.to_numpy() for value in values]
    names = {class_names(schema, column) for schema in schemas}
    if len(names) > 1:
        raise ValueError(f"{paths[0].parent}: the files give column {column!r} different class names")
    beside = find_classes(*locate(str(paths[0])), str(paths[0]), needed=False)
    most = max((int(label.max()) for label in labels if len(label)), default=-1)
    classes = names.pop() or beside or tuple(str(number) for number in range(most + 1))
    for path, label in zip(paths, labels, strict=True):
        check_range(path, label, len(classes), "; --classes-from none takes images of no class")
    return classes, labels


def _read(files: tuple[_File, ...]) -> Iterator[Record]:
    for file in files:
        with blamed_on_file(file.path), open_bounded(_place(file.path)) as parquet:
            yield from _rows_of(file, parquet)


def _rows_of(file: _File, parquet: BoundedParquet) -> Iterator[Record]:
    row = 0
    for batch in parquet.batches(READ_ROWS, [file.image]):
        for value in batch.column(0).to_pylist():
            image, path = image_bytes(value)
            yield Record(image, int(file.labels[row]), f"{file.path} row {row}", path)
            row += 1
