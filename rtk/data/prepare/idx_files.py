"""MNIST's idx files (also those of Fashion-MNIST, KMNIST and EMNIST) as a source.

Format: big-endian header (magic number, one size a dimension), then the bytes; see
https://yann.lecun.com/exdb/mnist/.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from rtk.data.prepare.records import Record, Source, Split

_IMAGES_NAME = re.compile(r"(?P<split>.+)-images[-.]idx3-ubyte(\.gz)?")
_IMAGES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801


def find_idx_images(folder: Path) -> dict[str, Path]:
    """Return split name -> image file; MNIST's `t10k` is called `test`. Empty if there is none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # `train` before `t10k`; the plain file wins over .gz
        match = _IMAGES_NAME.fullmatch(path.name)
        if match and path.is_file():
            found["test" if match["split"] == "t10k" else match["split"]] = path
    return found


def open_idx(folder: Path) -> Source:
    """Open a folder with pairs like `train-images-idx3-ubyte[.gz]` and `train-labels-idx1-ubyte[.gz]`.

    The files name no classes, so these are called by their numbers, `0` up to the largest label.

    Raises:
        ValueError: a label file is missing, or a pair is corrupt or does not fit together.
    """
    pairs = {split: (path, _labels_path(path)) for split, path in find_idx_images(folder).items()}
    labels = {split: _read_labels(path) for split, (_, path) in pairs.items()}
    splits = []
    for split, (images_path, _) in pairs.items():
        with _open(images_path) as file:
            count, _, _ = _read_header(file, images_path, _IMAGES_MAGIC, dimensions=3)
        if count != len(labels[split]):
            raise ValueError(f"{images_path}: {count} images, but {len(labels[split])} labels")
        splits.append(Split(split, count, partial(_read_records, images_path, labels[split])))
    highest = max((int(array.max()) for array in labels.values() if len(array)), default=-1)
    classes = tuple(str(number) for number in range(highest + 1))
    return Source("idx files", classes, tuple(splits), has_paths=False)


def _labels_path(images_path: Path) -> Path:
    """Return the label file beside an image file, packed or not."""
    plain = re.sub(r"-images([-.])idx3", r"-labels\1idx1", images_path.name.removesuffix(".gz"))
    for name in (plain, plain + ".gz"):
        if images_path.with_name(name).is_file():
            return images_path.with_name(name)
    raise ValueError(f"{images_path}: its labels are missing, wanted {plain} or {plain}.gz beside it")


def _read_labels(path: Path) -> np.ndarray:
    """Return uint8 (N,)."""
    with _open(path) as file:
        (count,) = _read_header(file, path, _LABELS_MAGIC, dimensions=1)
        return np.frombuffer(_read_exactly(file, path, count), dtype=np.uint8)


def _read_records(path: Path, labels: np.ndarray) -> Iterator[Record]:
    with _open(path) as file:
        _, height, width = _read_header(file, path, _IMAGES_MAGIC, dimensions=3)
        for row, label in enumerate(labels):
            pixels = np.frombuffer(_read_exactly(file, path, height * width), dtype=np.uint8)
            yield Record(pixels.reshape(height, width), int(label), origin=f"{path.name} row {row}")


def _read_header(file: BinaryIO, path: Path, magic: int, dimensions: int) -> tuple[int, ...]:
    """Return the sizes of the dimensions."""
    found, *sizes = struct.unpack(f">{1 + dimensions}I", _read_exactly(file, path, 4 * (1 + dimensions)))
    if found != magic:
        raise ValueError(f"{path}: starts with {found:#010x}; wanted {magic:#010x} (idx, unsigned bytes)")
    return tuple(sizes)


def _read_exactly(file: BinaryIO, path: Path, size: int) -> bytes:
    try:
        data = file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: corrupt gzip file: {error}") from error
    if len(data) != size:
        raise ValueError(f"{path}: ends too early")
    return data


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
