"""Which images go to which part of a split: every class in the wanted shares, and groups kept whole."""

from __future__ import annotations

import numpy as np


def allocate(labels: np.ndarray, groups: np.ndarray, fractions: np.ndarray, seed: int) -> np.ndarray:
    """Assign images to parts; a pure function of its arguments.

    Groups of several images come first, the largest before the others, each to the part that its classes lack
    most (as in scikit-learn's `StratifiedGroupKFold`, which knows equal parts only). Single images then fill
    up what is left, at random. Where no group is in the way, every class therefore has exactly its `targets`.

    Args:
        labels: int64 (N,), from 0.
        groups: int64 (N,), images of one number stay together.
        fractions: (S,), wanted share of each part; they sum to 1.
        seed: of the random choices.

    Returns:
        int64 (N,), the part of each image. Parts of share 0 get none. That each class is in each part, and
        how near the shares come, is for the caller to check (`class_counts`).
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, 0]))
    wanted = targets(np.bincount(labels), fractions)
    placed = np.zeros_like(wanted)
    parts = np.full(len(labels), -1)
    _, number, size = np.unique(groups, return_inverse=True, return_counts=True)
    for rows in _several(number, size, generator):
        classes, counts = np.unique(labels[rows], return_counts=True)
        # Growth of the squared distance from the targets, of the classes that the group has.
        costs = (counts[:, None] * (counts[:, None] + 2 * (placed - wanted)[classes])).sum(0)
        best = int(np.where(fractions > 0, costs, np.inf).argmin())
        parts[rows] = best
        placed[classes, best] += counts
    for label, missing in enumerate(wanted - placed):
        single = generator.permutation(np.flatnonzero((labels == label) & (parts < 0)))
        parts[single] = np.repeat(np.arange(len(fractions)), _filled_up(missing, len(single)))
    return parts


def class_counts(labels: np.ndarray, parts: np.ndarray, num_classes: int, num_parts: int) -> np.ndarray:
    """Images of each class in each part, int64 (C, S)."""
    return np.bincount(labels * num_parts + parts, minlength=num_classes * num_parts).reshape(
        num_classes, num_parts
    )


def targets(counts: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Whole numbers of images, int64 (C, S), nearest to the wanted shares of every class and of all.

    What rounding gives to a part too much in one class is taken from it in the next ones: with 10 images in
    each class and shares of 15 %, half the classes give 1 and half give 2. A class that has as many images as
    there are parts has one in each.

    Args:
        counts: (C,), images of each class.
        fractions: (S,).
    """
    rounded = np.zeros((len(counts), len(fractions)), np.int64)
    owed = np.zeros(len(fractions))
    used = np.flatnonzero(fractions)
    for label, count in enumerate(counts):
        exact = count * fractions
        row = np.floor(exact + 1e-9).astype(np.int64)
        left = exact - row + owed
        left[fractions == 0] = -np.inf
        row[np.argsort(-left, kind="stable")[: count - row.sum()]] += 1
        if count >= len(used):
            for part in used[row[used] == 0]:
                row[row.argmax()] -= 1
                row[part] += 1
        owed += exact - row
        rounded[label] = row
    return rounded


def _several(number: np.ndarray, size: np.ndarray, generator: np.random.Generator) -> list[np.ndarray]:
    """Rows of every group of more than one image, the largest first, equal ones in random order."""
    large = generator.permutation(np.flatnonzero(size > 1))
    large = large[np.argsort(-size[large], kind="stable")]
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(size)
    return [order[ends[group] - size[group] : ends[group]] for group in large]


def _filled_up(missing: np.ndarray, count: int) -> np.ndarray:
    """How many of `count` single images each part gets, (S,), where groups may have given some too many."""
    given = missing.clip(min=0)
    while given.sum() > count:
        given[given.argmax()] -= 1
    return given
