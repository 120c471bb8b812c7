"""A reference to prepared data: Parquet files of images and labels, and class names.

Works on a local path and on any URI that pyarrow's filesystems know (`s3://`, `gs://`, `hdfs://`).
"""

import hashlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rtk.data.sets.storage import blamed_on_file, find_parquet, locate, read_json, unprepared
from rtk.runs.bounded_parquet import BoundedParquet, check_expansion, open_bounded
from rtk.runs.json_files import is_text

CLASSES_FILE = "classes.json"
MANIFEST_FILE = "manifest.json"

HASH_LIMIT = 2**30  # bytes; about a second of SHA-256
_COLUMN_TYPES: dict[str, tuple[Callable[[pa.DataType], bool], str]] = {
    "image": (lambda kind: kind in (pa.binary(), pa.large_binary()), "binary (encoded PNG, JPEG, ...)"),
    "label": (pa.types.is_integer, "an integer type"),
    "sample_id": (pa.types.is_integer, "an integer type"),
    "path": (lambda kind: kind in (pa.string(), pa.large_string()), "string"),
}

READ_ROWS = 256  # rows read at a time: 256 photographs are some 30 MB


@dataclass(frozen=True)
class ImageDataset:
    """Where a set of images lies and what its metadata says; small, picklable, holds no image.

    Attributes:
        path: as it was given: a Parquet file or a folder, local or URI.
        files: the Parquet files, in row order, as `filesystem` names them.
        rows: number of images over all files.
        classes: class names in the order of the labels; empty if there are none.
        columns: columns that all files have.
        label_map: for each label in the files its number in `classes` (see `class_names`); None: the same.
    """

    path: str
    files: tuple[str, ...]
    rows: int
    classes: tuple[str, ...]
    columns: tuple[str, ...]
    label_map: tuple[int, ...] | None = None

    @property
    def has_sample_id(self) -> bool:
        """Whether every file has the column `sample_id`."""
        return "sample_id" in self.columns

    @property
    def filesystem(self) -> fs.FileSystem:
        """The filesystem that `files` are paths of."""
        return locate(self.path)[0]


class Row(NamedTuple):
    """One image: its row number in the dataset, its encoded bytes, its label and the optional columns."""

    number: int
    image: bytes
    label: int
    sample_id: int | None
    path: str | None


def open_dataset(path: str | Path, *, need_classes: bool = True) -> ImageDataset:
    """Open prepared data, reading only metadata.

    Args:
        path: a Parquet file, or a folder of them (files in the order of their names; a folder called
            `*.parquet` counts as one file in parts). Local, or a URI.
        need_classes: whether a missing `classes.json` is an error. It is looked for in the folder, beside the
            file, and beside a folder called `*.parquet`.

    Raises:
        ValueError: the path or the class names are missing, or a file is no Parquet, has not the columns
            `image` (binary) and `label` (integer), its `sample_id` is no integer or its `path` no string, or
            there are no rows, or so many that their labels expand hugely.
    """
    filesystem, place = locate(str(path))
    files = find_parquet(filesystem, place, str(path))
    schemas, rows, stored = [], 0, 0
    for file in files:
        metadata, size = _read_metadata(filesystem, file)
        schemas.append(metadata.schema.to_arrow_schema())
        _check_columns(schemas[-1], file)
        rows, stored = rows + metadata.num_rows, stored + size
    check_expansion(path, f"labels of {rows:,} rows", 8 * rows, stored)
    if not rows:
        raise ValueError(f"{path}: zero rows")
    columns = [name for name in schemas[0].names if all(name in schema.names for schema in schemas)]
    classes = find_classes(filesystem, files[0], str(path), need_classes)
    return ImageDataset(str(path), tuple(files), rows, classes, tuple(columns))


def labels(dataset: ImageDataset) -> np.ndarray:
    """Return the labels of all rows as numbers of `dataset.classes`, int64 (rows,).

    Raises:
        ValueError: a label is missing.
    """
    values = np.concatenate([read_integers(dataset, file, "label") for file in dataset.files])
    return values if dataset.label_map is None else np.array(dataset.label_map)[values]


def check_labels(dataset: ImageDataset, num_classes: int) -> None:
    """Check that every label in the files lies in [0, num_classes), or is one that `label_map` knows.

    Raises:
        ValueError: one does not; the message names the file, the row and the label.
    """
    if dataset.label_map is not None:
        num_classes = len(dataset.label_map)
    for file in dataset.files:
        check_range(file, read_integers(dataset, file, "label"), num_classes)


def check_range(file: str | Path, values: np.ndarray, num_classes: int, way_out: str = "") -> None:
    """Check the labels of one file, as `check_labels`; `way_out` ends the message."""
    outside = np.flatnonzero((values < 0) | (values >= num_classes))
    if len(outside):
        first = outside[0]
        raise ValueError(
            f"{file}: label {values[first]} in row {first} is out of range, there are {num_classes} "
            f"classes ({len(outside)} such rows){way_out}"
        )


def read_integers(dataset: ImageDataset, file: str, column: str) -> np.ndarray:
    """Return an integer column of one file, int64 (rows of the file,).

    Raises:
        ValueError: a value is missing.
    """
    with blamed_on_file(file), open_bounded(file, dataset.filesystem) as parquet:
        values = parquet.table([column])[column]
    if values.null_count:
        raise ValueError(f"{file}: column {column!r} has {values.null_count} missing values")
    return values.cast(pa.int64()).to_numpy()


def read_rows(dataset: ImageDataset, wanted: np.ndarray | None = None) -> Iterator[Row]:
    """Streams rows, in row order, holding at most `READ_ROWS` of them in memory.

    Args:
        dataset: the dataset.
        wanted: sorted row numbers, int (N,); row groups without any are not read. None: all rows.
    """
    filesystem, start = dataset.filesystem, 0
    for file in dataset.files:
        with blamed_on_file(file), open_bounded(file, filesystem) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                numbers = range(start, start + rows)
                chosen = numbers if wanted is None else _between(wanted, start, start + rows)
                if chosen:
                    found = _read_group(parquet, group, start, chosen)
                    places = dataset.label_map
                    yield from found if places is None else (r._replace(label=places[r.label]) for r in found)
                start += rows


def _between(ordered: np.ndarray, start: int, stop: int) -> set[int]:
    first, last = np.searchsorted(ordered, (start, stop))
    return set(ordered[first:last].tolist())


def _read_group(parquet: BoundedParquet, group: int, start: int, chosen: Container[int]) -> Iterator[Row]:
    present = [name for name in _COLUMN_TYPES if name in parquet.schema.names]
    for batch in parquet.batches(READ_ROWS, present, [group]):
        columns = [batch[name] if name in present else pa.nulls(len(batch)) for name in Row._fields[1:]]
        for offset in range(len(batch)):
            if start + offset in chosen:
                image, *others = (column[offset].as_py() for column in columns)
                yield Row(start + offset, image or b"", *others)
        start += len(batch)


def content_hash(dataset: ImageDataset) -> str:
    """Return a fast hash of the images and labels, the same wherever the files are copied to.

    A file counts with its SHA-256, taken from `manifest.json` beside it if that states one for a file of this
    size, else computed. Files above `HASH_LIMIT` without a manifest count with their size and Parquet footer
    (positions, sizes and value ranges of every column chunk), which also needs no download.

    Returns:
        64 hexadecimal digits.
    """
    filesystem = dataset.filesystem
    total = hashlib.sha256()
    for file in dataset.files:
        total.update(_file_hash(filesystem, file).encode())
    return total.hexdigest()


def _file_hash(filesystem: fs.FileSystem, file: str) -> str:
    size = filesystem.get_file_info(file).size
    for folder in _folders_above(file):
        name = PurePosixPath(file).relative_to(folder).as_posix()
        entries = (read_json(filesystem, f"{folder}/{MANIFEST_FILE}") or {}).get("files", [])
        for entry in entries:
            if (entry["file"], entry["bytes"]) == (name, size):
                return entry["sha256"]
    with filesystem.open_input_file(file) as opened:
        if size > HASH_LIMIT:
            opened.seek(size - 8)  # the last 8 bytes: length of the footer, "PAR1"
            footer_size = int.from_bytes(opened.read(4), "little") + 8
            opened.seek(size - footer_size)
            return f"{size}-{hashlib.sha256(opened.read()).hexdigest()}"
        digest = hashlib.sha256()
        while chunk := opened.read(2**20):
            digest.update(chunk)
        return digest.hexdigest()


def _read_metadata(filesystem: fs.FileSystem, file: str) -> tuple[pq.FileMetaData, int]:
    """The footer of a file, and how many bytes it has."""
    try:
        with filesystem.open_input_file(file) as opened:
            return pq.read_metadata(opened), opened.size()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: no Parquet file: {error}; {unprepared(file)}") from error


def _check_columns(schema: pa.Schema, file: str) -> None:
    for column in ("image", "label"):
        if column not in schema.names:
            raise ValueError(
                f"{file}: column {column!r} is missing; it has {', '.join(schema.names)}; {unprepared(file)}"
            )
    for column, (is_wanted, description) in _COLUMN_TYPES.items():
        kind = schema.field(column).type if column in schema.names else None
        if kind is not None and not is_wanted(kind):
            raise ValueError(f"{file}: column {column!r} is {kind}; wanted {description}; {unprepared(file)}")


def find_classes(filesystem: fs.FileSystem, file: str, path: str, needed: bool) -> tuple[str, ...]:
    """Class names from `classes.json` beside a file; empty where there is none and none is needed.

    Raises:
        ValueError: it is missing though needed, or of another form.
    """
    for folder in _folders_above(file):
        content = read_json(filesystem, f"{folder}/{CLASSES_FILE}")
        if content is not None:
            names = content.get("classes") if isinstance(content, dict) else None
            if not isinstance(names, list) or not names or not all(map(is_text, names)):
                raise ValueError(f'{folder}/{CLASSES_FILE}: wanted {{"classes": ["name", ...]}}, not empty')
            return tuple(names)
    if needed:
        raise ValueError(f'{path}: {CLASSES_FILE} is missing; wanted {{"classes": ["name of label 0", ...]}}')
    return ()


def _folders_above(file: str) -> list[str]:
    """Return the folders whose `classes.json` and `manifest.json` speak of this file."""
    parent = PurePosixPath(file).parent
    folders = [parent, parent.parent] if parent.suffix == ".parquet" else [parent]
    return [folder.as_posix() for folder in folders]
