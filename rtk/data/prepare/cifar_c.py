"""CIFAR-10-C and CIFAR-100-C as their authors publish them, NumPy files of corrupted images, as a source.

Each corruption is a file `brightness.npy`, uint8 (50000, 32, 32, 3): the 10,000 test images at severity 1,
then at 2, to 5; `labels.npy` has as many integers. Format: https://zenodo.org/records/2535967 (Hendrycks &
Dietterich, arXiv 1903.12261). Arrays of Python objects, which would be unpickled, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from rtk.data.prepare.given_classes import given_classes
from rtk.data.prepare.records import Record, Source, Split
from rtk.runtime.console import counted

SEVERITIES = (1, 2, 3, 4, 5)
_LABELS = "labels.npy"


def is_cifar_c(path: Path) -> bool:
    """Whether a path is a folder of such files."""
    return path.is_dir() and (path / _LABELS).is_file() and bool(_corruptions(path))


def open_cifar_c(folder: Path, *, classes_from: str | None = None) -> Source:
    """Open a folder such as `CIFAR-10-C`: a split `CORRUPTION-SEVERITY` of each severity of each file.

    Args:
        folder: with the files.
        classes_from: prepared data, a file or a folder, whose classes the labels are numbers of; None:
            classes are called by their numbers.

    Raises:
        ValueError: a file is missing, is no array of numbers, or has another shape or type than is wanted.
    """
    files = _corruptions(folder)
    if not files:
        raise ValueError(f"{folder}: got no CORRUPTION.npy, wanted those of CIFAR-10-C or CIFAR-100-C")
    labels = _read_labels(folder / _LABELS)
    for file in files:
        _open_images(file, len(labels) * len(SEVERITIES))
    splits = tuple(
        Split(f"{file.stem}-{severity}", len(labels), partial(_read, file, labels, severity))
        for file in files
        for severity in SEVERITIES
    )
    classes = given_classes(classes_from, int(labels.max()) + 1)
    shown = f"{counted(len(files), 'corruption')} x {len(SEVERITIES)} severities of {len(labels)} images each"
    return Source("CIFAR-C arrays", classes, splits, has_paths=False, layout=(shown,))


def _corruptions(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npy") if path.name != _LABELS)


def _read_labels(file: Path) -> np.ndarray:
    """Labels of the images of one severity, int64 (N,)."""
    labels = _load(file)
    parts = len(SEVERITIES)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or len(labels) % parts:
        raise ValueError(
            f"{file}: got {_form(labels)}, wanted integers, as many for each of {parts} severities"
        )
    by_severity = labels.reshape(parts, -1).astype(np.int64)
    if (by_severity != by_severity[0]).any() or by_severity.min() < 0:
        raise ValueError(
            f"{file}: got other labels for some severities, wanted the same, from 0 on, for each"
        )
    return by_severity[0]


def _open_images(file: Path, count: int) -> np.ndarray:
    """The images of a file, uint8 (N, H, W, 3), not read yet."""
    images = _load(file)
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[0] != count or images.shape[3] != 3:
        wanted = f"uint8 ({count}, height, width, 3), an image for each label"
        raise ValueError(f"{file}: got {_form(images)}, wanted {wanted}")
    return images


def _load(file: Path) -> np.ndarray:
    """An array, mapped into memory; nothing is unpickled."""
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{file}: cannot be read as a NumPy array of numbers ({error})") from None
    if not isinstance(loaded, np.ndarray):
        raise ValueError(f"{file}: got an archive of arrays, wanted one array")
    return loaded


def _form(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _read(file: Path, labels: np.ndarray, severity: int) -> Iterator[Record]:
    images = _open_images(file, len(labels) * len(SEVERITIES))
    first = (severity - 1) * len(labels)
    for row, label in enumerate(labels, first):
        yield Record(np.array(images[row]), int(label), origin=f"{file.name} row {row}")
