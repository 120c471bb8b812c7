"""Find and read files on any filesystem that pyarrow knows: local, or a URI such as `s3://bucket/folder`."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import fs

from rtk.data.image_files import as_text
from rtk.runs.bounded_parquet import open_bounded


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a local path or URI, and the path in it.

    Raises:
        ValueError: the URI is malformed or of an unknown kind.
    """
    if "\0" in path:
        raise ValueError(f"{path!r}: a path with a NUL character, wanted one without")
    if "://" not in path:
        return fs.LocalFileSystem(), _utf8(Path(path).absolute().as_posix())
    try:
        filesystem, place = fs.FileSystem.from_uri(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot open this URI: {error}") from error
    return filesystem, place.rstrip("/")


def _utf8(path: str) -> str:
    """A local path as pyarrow takes it: UTF-8, in whichever encoding Python reads names here."""
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{as_text(path)}: the path is not UTF-8, wanted one that is") from None


def unprepared(path: str) -> str:
    """What to do where a path holds something else than prepared images."""
    return f"wanted prepared images (rtk data prepare {path} --out DIR makes them)"


def find_parquet(filesystem: fs.FileSystem, place: str, path: str) -> list[str]:
    """Return the Parquet files at `place`, sorted by name.

    Args:
        filesystem: where to look.
        place: a file, or a folder of `*.parquet` files; a folder of that name is looked into.
        path: what to call `place` in messages.

    Raises:
        ValueError: it does not exist, or holds no such file.
    """
    kind = filesystem.get_file_info(place).type
    if kind == fs.FileType.NotFound:
        raise ValueError(f"{path}: does not exist")
    if kind == fs.FileType.File:
        return [place]
    found: list[str] = []
    try:
        inside = sorted(filesystem.get_file_info(fs.FileSelector(place)), key=lambda info: info.base_name)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: a name in this folder is not UTF-8; {unprepared(path)}") from None
    for info in inside:
        if info.base_name.endswith(".parquet") and not info.base_name.startswith((".", "_")):
            is_file = info.type == fs.FileType.File
            found += [info.path] if is_file else find_parquet(filesystem, info.path, path)
    if not found:
        raise ValueError(f"{path}: no .parquet files in this folder; {unprepared(path)}")
    return found


@contextmanager
def blamed_on_file(file: object) -> Iterator[None]:
    """Say of which Parquet file a page is that cannot be read; pyarrow names none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # of the disk or the network, not of what was read
            raise
        raise ValueError(f"{file}: damaged: {str(error).splitlines()[0]}") from None


def read_json(filesystem: fs.FileSystem, file: str) -> Any:
    """Return the content of a JSON file; None if it does not exist.

    Raises:
        ValueError: it is no valid JSON.
    """
    if filesystem.get_file_info(file).type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(file) as opened:
        try:
            return json.loads(opened.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: no valid JSON: {error}") from error


def read_groups(filesystem: fs.FileSystem, files: Sequence[str], column: str) -> np.ndarray:
    """Numbers of the values of any column of Parquet files, int64 (rows,): equal where the values are.

    Args:
        filesystem: where the files are.
        files: in the order of the rows.
        column: its name.

    Raises:
        ValueError: a file has no such column, or a value is missing.
    """
    numbers: dict[str, int] = {}
    groups = []
    for file in files:
        with open_bounded(file, filesystem) as parquet:
            if column not in parquet.schema.names:
                there = ", ".join(parquet.schema.names)
                raise ValueError(f"{file}: has no column {column!r}; it has {there}")
            values = parquet.table([column])[column]
        if values.null_count:
            raise ValueError(f"{file}: column {column!r} has {values.null_count} missing values")
        groups += [numbers.setdefault(repr(value), len(numbers)) for value in values.to_pylist()]
    return np.array(groups, np.int64)
