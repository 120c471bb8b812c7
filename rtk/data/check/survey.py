"""One look at every image of several data sets; what is kept of each is small."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rtk.data.sets.class_names import with_classes
from rtk.data.sets.dataset import ImageDataset, check_labels, read_rows
from rtk.data.sets.fingerprint import Fingerprints, look_at_each
from rtk.runtime.console import Progress

_DIGEST = 16  # bytes


@dataclass(frozen=True)
class Survey:
    """What was seen of N images: those of the first set, then those of the next; some 850 bytes of each.

    Attributes:
        datasets: by name, in this order; their labels are numbers of `classes`.
        notes: what was done to the labels of a set, by its name.
        sets: int64 (N,), number of the set.
        rows: int64 (N,), row in it.
        labels: int64 (N,).
        sizes: int64 (N, 2), width and height in pixels; 0 where an image cannot be decoded.
        digests: (N,), hashes of the encoded bytes.
        prints: perceptual ones.
        paths: of each image; None where the data does not say.
        broken: reason by number, of the images that cannot be decoded.
    """

    datasets: Mapping[str, ImageDataset]
    notes: Mapping[str, str]
    sets: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    sizes: np.ndarray
    digests: np.ndarray
    prints: Fingerprints
    paths: list[str | None]
    broken: dict[int, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sets."""
        return tuple(self.datasets)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, which are those of the first set."""
        return next(iter(self.datasets.values())).classes

    @property
    def decodable(self) -> np.ndarray:
        """Numbers of the images that can be decoded, ascending."""
        return np.delete(np.arange(len(self.labels)), list(self.broken))

    def numbers_of(self, name: str) -> np.ndarray:
        """Numbers of the images of a set, in the order of its rows."""
        return np.flatnonzero(self.sets == self.names.index(name))

    def read(self, numbers: set[int]) -> dict[int, bytes]:
        """Encoded bytes of some images, by number."""
        found: dict[int, bytes] = {}
        first = 0
        for dataset in self.datasets.values():
            own = np.array(sorted(n - first for n in numbers if first <= n < first + dataset.rows), np.int64)
            found |= {first + row.number: row.image for row in read_rows(dataset, own)} if len(own) else {}
            first += dataset.rows
        return found


def survey(datasets: Mapping[str, ImageDataset], progress: Progress, by_number: bool = False) -> Survey:
    """Look at every image of some data sets, one after another.

    Args:
        datasets: by name, the training images first: its classes are those of all.
        progress: called with (images done, images in all).
        by_number: take labels as they are, whatever the names of the classes.

    Raises:
        ValueError: a set has a label out of range, or a class that the first has not.
    """
    matched, notes = _with_classes_of_first(datasets, by_number)
    total = sum(dataset.rows for dataset in matched.values())
    seen = Survey(
        matched,
        notes,
        sets=np.repeat(np.arange(len(matched)), [dataset.rows for dataset in matched.values()]),
        rows=np.concatenate([np.arange(dataset.rows) for dataset in matched.values()]),
        labels=np.zeros(total, np.int64),
        sizes=np.zeros((total, 2), np.int64),
        digests=np.zeros(total, f"V{_DIGEST}"),
        prints=Fingerprints.for_images(total),
        paths=[],
    )
    rows = (row for dataset in matched.values() for row in read_rows(dataset))
    for number, (row, look) in enumerate(look_at_each(rows, lambda row: row.image)):
        seen.labels[number] = row.label
        seen.digests[number] = np.void(hashlib.blake2b(row.image, digest_size=_DIGEST).digest())
        seen.paths.append(row.path)
        if isinstance(look, str):
            seen.broken[number] = look
        else:
            seen.sizes[number] = look.size
            seen.prints.put(number, look)
        progress(number + 1, total)
    return seen


def _with_classes_of_first(
    datasets: Mapping[str, ImageDataset], by_number: bool
) -> tuple[dict[str, ImageDataset], dict[str, str]]:
    """The sets with labels that mean the same classes, and what there is to say about it."""
    classes = next(iter(datasets.values())).classes
    matched: dict[str, ImageDataset] = {}
    notes: dict[str, str] = {}
    for name, dataset in datasets.items():
        try:
            matched[name], note = with_classes(dataset, classes, by_number)
        except ValueError as error:
            raise ValueError(f"{dataset.path}: {error}; --labels-by number takes labels as numbers") from None
        check_labels(matched[name], len(classes))
        notes |= {name: note} if note else {}
    return matched, notes
