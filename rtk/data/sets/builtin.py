"""Data sets that rtk can make itself, without a download: `builtin:digits/...`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rtk.config.load import BUILTIN
from rtk.data.image import encode_png
from rtk.data.sets.storage import locate
from rtk.runs.working_copy import cache_folder

PREFIX = BUILTIN
DIGITS_SIDE = 32
KNOWN_CLASSES = 8
PHOTO_CROPS = 400
VERSION = 2  # raise it when the pictures change, so that cached copies are made anew


def resolve_path(path: str) -> str:
    """The path itself, or for `builtin:digits/FILE` the file in the cache, made on first use.

    Raises:
        ValueError: for a built-in set that does not exist.
    """
    if not path.startswith(PREFIX):
        return path
    name, _, file = path.removeprefix(PREFIX).partition("/")
    folder = cache_folder() / f"{name}-v{VERSION}"
    if name != "digits":
        raise ValueError(f"{path}: no such built-in data set, there is builtin:digits")
    if not folder.exists():
        _write_digits(folder)
    if not (folder / file).is_file():
        raise ValueError(
            f"{path}: no such file, there are {', '.join(sorted(p.name for p in folder.iterdir()))}"
        )
    return str(folder / file)


def is_missing(path: str) -> bool:
    """Whether there is nothing at a path (local, URI, or `builtin:`)."""
    filesystem, place = locate(resolve_path(path))
    return bool(filesystem.get_file_info(place).type == fs.FileType.NotFound)


def _write_digits(folder: Path) -> None:
    """Digits 0-7 as train / validation / test; 8-9 as near-OOD and crops of photographs as far-OOD tests.

    The OOD sets for validation are of other kinds than those of the tests, so that nothing about the
    tests is learnt from them: halves of two digits as near, coloured noise as far.
    """
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    first_id = 0
    for name, (images, labels) in _digit_splits().items():
        ids = np.arange(first_id, first_id + len(images))
        first_id += len(images)
        encoded = [encode_png(image) for image in images]
        columns = {
            "image": pa.array(encoded, pa.binary()),
            "label": labels.astype(np.int64),
            "sample_id": ids,
        }
        pq.write_table(pa.table(columns), partial / f"{name}.parquet", compression="zstd")
    classes = [str(digit) for digit in range(KNOWN_CLASSES)]
    (partial / "classes.json").write_text(json.dumps({"classes": classes}), encoding="utf-8")
    try:
        partial.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(partial)


def _digit_splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.stack([_enlarge(image) for image in digits.images])
    order = np.random.Generator(np.random.Philox(0)).permutation(len(images))
    known = order[digits.target[order] < KNOWN_CLASSES]
    near = order[digits.target[order] >= KNOWN_CLASSES]
    cuts = np.split(known, [int(0.6 * len(known)), int(0.7 * len(known))])
    splits = {name: (images[rows], digits.target[rows]) for name, rows in zip(SPLITS, cuts, strict=True)}
    photos = np.stack(list(_photo_crops()))
    halves = _joined_halves(*splits["validation"])
    noise = _coloured_noise(len(halves))
    return splits | {
        # The labels of OOD images are never used; 0 keeps the column valid.
        "near_digits89": (images[near], np.zeros(len(near))),
        "far_photos": (photos, np.zeros(len(photos))),
        "validation_near_halves": (halves, np.zeros(len(halves))),
        "validation_far_noise": (noise, np.zeros(len(noise))),
    }


SPLITS = ("train", "validation", "test")


def _enlarge(image: np.ndarray) -> np.ndarray:
    """A digit (8, 8) with values 0..16 as uint8 (32, 32, 3)."""
    from PIL import Image

    grey = Image.fromarray((image * 255 / 16).astype(np.uint8)).resize(
        (DIGITS_SIDE,) * 2, Image.Resampling.BICUBIC
    )
    return np.asarray(grey.convert("RGB"))


def _joined_halves(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Upper halves of validation digits on the lower halves of digits of another class, two of each."""
    generator = np.random.Generator(np.random.Philox(2))
    rows = np.tile(np.arange(len(images)), 2)
    below = np.array([generator.choice(np.flatnonzero(labels != labels[row])) for row in rows])
    middle = DIGITS_SIDE // 2
    return np.concatenate([images[rows, :middle], images[below, middle:]], axis=1)


def _coloured_noise(count: int) -> np.ndarray:
    """Noise whose spectrum falls with the frequency, as that of photographs: uint8 (count, 32, 32, 3)."""
    generator = np.random.Generator(np.random.Philox(3))
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(DIGITS_SIDE), np.fft.rfftfreq(DIGITS_SIDE), indexing="ij")
    )
    frequency[0, 0] = 1 / DIGITS_SIDE
    white = generator.standard_normal((count, 3, DIGITS_SIDE, DIGITS_SIDE))
    noise = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(DIGITS_SIDE, DIGITS_SIDE))
    low, high = noise.min(axis=(1, 2, 3), keepdims=True), noise.max(axis=(1, 2, 3), keepdims=True)
    return ((noise - low) / (high - low) * 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _photo_crops() -> Iterator[np.ndarray]:
    """32x32 crops of scikit-learn's two sample photographs, at half size so that they show structure."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    generator = np.random.Generator(np.random.Philox(1))
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    halves = [np.asarray(photo.resize((photo.width // 2, photo.height // 2))) for photo in photos]
    for number in range(PHOTO_CROPS):
        photo = halves[number % len(halves)]
        top = generator.integers(photo.shape[0] - DIGITS_SIDE)
        left = generator.integers(photo.shape[1] - DIGITS_SIDE)
        yield photo[top : top + DIGITS_SIDE, left : left + DIGITS_SIDE]
