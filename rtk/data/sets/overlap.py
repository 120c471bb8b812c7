"""Whether what a model is trained or tuned on is also what it is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from rtk.data.sets.dataset import HASH_LIMIT, ImageDataset, content_hash, read_rows

NOTICEABLE = 0.01  # sets such as CIFAR-100 hold a few of their own images twice


def first_overlap(
    used: Mapping[str, ImageDataset], tests: Mapping[str, ImageDataset]
) -> tuple[str, str, float] | None:
    """The first of the sets in `used` that has a noticeable part in common with one of `tests`.

    Returns:
        Both names and their `overlap`; None where there is none.
    """
    for name, dataset in used.items():
        for test, tested in tests.items():
            share = overlap(dataset, tested)
            if share >= NOTICEABLE:
                return name, test, share
    return None


def overlap(one: ImageDataset, other: ImageDataset) -> float:
    """Share, in [0, 1], of the smaller set's images that the other one has too, byte for byte.

    Sets of more than `HASH_LIMIT` bytes are only compared as wholes: 0 or 1.
    """
    if content_hash(one) == content_hash(other):
        return 1.0
    if max(_bytes(one), _bytes(other)) > HASH_LIMIT:
        return 0.0
    first, second = _digests(one), _digests(other)
    return len(first & second) / max(1, min(len(first), len(second)))


def _bytes(dataset: ImageDataset) -> int:
    return sum(info.size or 0 for info in dataset.filesystem.get_file_info(list(dataset.files)))


@lru_cache(maxsize=64)
def _digests(dataset: ImageDataset) -> frozenset[bytes]:
    """Of every image but empty ones, which are broken and all alike."""
    images = (row.image for row in read_rows(dataset) if row.image)
    return frozenset(hashlib.blake2b(image, digest_size=16).digest() for image in images)
