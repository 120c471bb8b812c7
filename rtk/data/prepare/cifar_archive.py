"""CIFAR-10 and CIFAR-100 as their authors publish them (python version), packed or extracted, as a source.

Format: https://www.cs.toronto.edu/~kriz/cifar.html. The pickles are read by `rtk.data.prepare.inert_pickle`.
"""

import tarfile
import zlib
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rtk.data.prepare.inert_pickle import ArrayRecord, read_inert_pickle
from rtk.data.prepare.records import Record, Source, Split

SIDE = 32  # pixels
EXTRACTED_NAMES = ("cifar-10-batches-py", "cifar-100-python")


class _Layout(NamedTuple):
    """How one of the two archives names things."""

    kind: str
    names_key: str  # in the meta file
    batches: dict[str, tuple[str, ...]]  # split -> batch files, in row order


_LAYOUTS = {  # by the name of the meta file
    "batches.meta": _Layout(
        "CIFAR-10 archive",
        "label_names",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    ),
    "meta": _Layout("CIFAR-100 archive", "fine_label_names", {"train": ("train",), "test": ("test",)}),
}
_BATCH_NAMES = {
    name for layout in _LAYOUTS.values() for batches in layout.batches.values() for name in batches
}


class _Batch(NamedTuple):
    pixels: np.ndarray  # uint8 (N, 32, 32, 3)
    labels: list[int]
    file_names: list[str] | None


def find_cifar_folder(folder: Path) -> Path | None:
    """Return `folder`, or the extracted archive directly in it, if that is a CIFAR folder; else None."""
    for candidate in (folder, *(folder / name for name in EXTRACTED_NAMES)):
        if any((candidate / meta).is_file() for meta in _LAYOUTS):
            return candidate
    return None


def open_cifar(path: Path) -> Source:
    """Open a `cifar-*-python.tar.gz` or the folder extracted from it. CIFAR-100 gives its fine labels.

    Goes through the whole archive once, to check it and count its images. One batch file is in memory at a
    time (30 MB; the single training file of CIFAR-100 is 150 MB).

    Raises:
        ValueError: no CIFAR archive, a corrupt one, or one whose pickles hold anything but data.
    """
    layout, classes = _read_meta(path)
    counts: dict[str, int] = {}
    has_paths = True
    for name, file in _members(path, _BATCH_NAMES):
        batch = _read_batch(file, f"{path}: {name}", len(classes))
        counts[name] = len(batch.labels)
        has_paths &= batch.file_names is not None
    splits = []
    for split, names in layout.batches.items():
        present = [name for name in names if name in counts]
        if present:
            count = sum(counts[name] for name in present)
            splits.append(Split(split, count, partial(_read_records, path, present, len(classes))))
    return Source(layout.kind, classes, tuple(splits), has_paths)


def _read_meta(path: Path) -> tuple[_Layout, tuple[str, ...]]:
    """Return the layout and the class names."""
    for name, file in _members(path, _LAYOUTS):
        layout = _LAYOUTS[name]
        names = _read_dict(file, f"{path}: {name}").get(layout.names_key)
        if not isinstance(names, list) or not names:
            raise ValueError(f"{path}: {name} lacks the class names {layout.names_key!r}")
        return layout, tuple(_text(name) for name in names)
    wanted = " or ".join(repr(name) for name in _LAYOUTS)
    raise ValueError(f"{path}: no CIFAR archive in the authors' python version (no file {wanted} in it)")


def _read_records(path: Path, batch_names: list[str], num_classes: int) -> Iterator[Record]:
    for wanted in batch_names:  # one at a time: an archive need not hold them in order
        for name, file in _members(path, (wanted,)):
            pixels, labels, file_names = _read_batch(file, f"{path}: {name}", num_classes)
            for row, label in enumerate(labels):
                file_name = file_names[row] if file_names else None
                yield Record(pixels[row], label, f"{path.name}: {name} row {row}", file_name)


def _read_batch(file: BinaryIO, where: str, num_classes: int) -> _Batch:
    """Read and check one batch file.

    Raises:
        ValueError: its entries are missing, misshapen or out of range; the message names `where` and what.
    """
    content = _read_dict(file, where)
    labels = content.get("fine_labels", content.get("labels"))
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{where}: lacks a list of integers 'labels' or 'fine_labels'")
    outside = [label for label in labels if not 0 <= label < num_classes]
    if outside:
        raise ValueError(f"{where}: label {outside[0]} is out of range, there are {num_classes} classes")
    pixels = _to_images(content.get("data"), len(labels), where)
    file_names = content.get("filenames")
    if file_names is not None and not isinstance(file_names, list):
        raise ValueError(f"{where}: 'filenames' is no list")
    if file_names is not None and len(file_names) != len(labels):
        raise ValueError(f"{where}: {len(file_names)} file names for {len(labels)} labels")
    return _Batch(pixels, labels, None if file_names is None else [_text(name) for name in file_names])


def _to_images(data: Any, count: int, where: str) -> np.ndarray:
    """Turn the rows of 1024 red, 1024 green and 1024 blue values into uint8 (N, 32, 32, 3)."""
    if not isinstance(data, ArrayRecord):
        raise ValueError(f"{where}: lacks the array 'data'")
    try:
        rows = data.to_numpy()
    except ValueError as error:
        raise ValueError(f"{where}: 'data' is corrupt: {error}") from error
    if rows.dtype != np.uint8 or rows.shape != (count, 3 * SIDE * SIDE):
        raise ValueError(
            f"{where}: 'data' is {rows.dtype} {rows.shape}; wanted uint8 {(count, 3 * SIDE * SIDE)}"
        )
    return rows.reshape(count, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


def _read_dict(file: BinaryIO, where: str) -> dict[str, Any]:
    content = read_inert_pickle(file, where)
    if not isinstance(content, dict):
        raise ValueError(f"{where}: holds a {type(content).__name__}; wanted a dict")
    return {_text(key): value for key, value in content.items()}


def _members(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, BinaryIO]]:
    """Yield (base name, opened file) of the wanted files of a folder or tar archive, extracting none."""
    if path.is_dir():
        for name in sorted(wanted):
            if (path / name).is_file():
                with (path / name).open("rb") as file:
                    yield name, file
        return
    try:
        with tarfile.open(path) as archive:
            for info in archive:
                name = PurePosixPath(info.name).name
                opened = archive.extractfile(info) if info.isfile() and name in wanted else None
                if opened is not None:
                    yield name, opened  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: cannot read this tar archive: {error}") from error


def _text(value: Any) -> str:
    """Return text whether Python 2 (bytes) or Python 3 (str) wrote it."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
