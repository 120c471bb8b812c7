"""What a survey of images finds: near-duplicates, odd sizes, unbalanced classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rtk.data.check.survey import Survey
from rtk.data.prepare.inspect import ClassBalance, class_balance
from rtk.data.sets.duplicates import components, group_rows, near_duplicates

# How far a size or shape is from the training images' median before it is odd; farther where they vary more.
SIDE_FACTOR, SHAPE_FACTOR, SPREADS = 3.0, 2.0, 5.0
FEW_IMAGES, FEW_SHARE = 10, 0.1  # a class with fewer images, or with fewer than this of the median, is rare
_DEVIATION = 1.4826  # standard deviations in a median absolute deviation, of a normal distribution


class Duplicates(NamedTuple):
    """Images that look the same, by their numbers in the survey.

    Attributes:
        images: int64 (M,).
        exact: whether all their files have the same bytes.
        over_sets: whether they lie in more than one set.
        differs: whether they have more than one label.
    """

    images: np.ndarray
    exact: bool
    over_sets: bool
    differs: bool


class Odd(NamedTuple):
    """An image of unusual size: its number in the survey, and `small`, `large`, `narrow` or `wide`."""

    image: int
    kind: str


@dataclass(frozen=True)
class Findings:
    """What there is to look at.

    Attributes:
        survey: what it was found in.
        duplicates: groups of near-duplicates: over sets first, then those whose labels differ.
        odd: images of unusual size or shape, the most unusual first.
        counts: int64 (C, S), images of each class in each set.
        balance: of each set, by name.
        rare: classes with few images in the first set.
    """

    survey: Survey
    duplicates: tuple[Duplicates, ...]
    odd: tuple[Odd, ...]
    counts: np.ndarray
    balance: dict[str, ClassBalance]
    rare: tuple[str, ...]


def findings(seen: Survey) -> Findings:
    """What a survey finds."""
    counts = np.zeros((len(seen.classes), len(seen.names)), np.int64)
    np.add.at(counts, (seen.labels, seen.sets), 1)
    balance = {name: class_balance(seen.classes, counts[:, one]) for one, name in enumerate(seen.names)}
    least = max(FEW_IMAGES, FEW_SHARE * float(np.median(counts[:, 0])))
    rare = tuple(seen.classes[label] for label in np.flatnonzero(counts[:, 0] < least))
    return Findings(seen, _duplicates(seen), _odd_ones(seen), counts, balance, rare)


def _duplicates(seen: Survey) -> tuple[Duplicates, ...]:
    usable = seen.decodable
    pairs = usable[near_duplicates(seen.prints.take(usable))]
    groups = []
    for images in group_rows(components(pairs, len(seen.labels))):
        exact, over_sets, differs = (
            len(np.unique(values[images])) > 1 for values in (seen.digests, seen.sets, seen.labels)
        )
        groups.append(Duplicates(images, not exact, over_sets, differs))
    return tuple(sorted(groups, key=lambda group: (not group.over_sets, not group.differs)))


def _odd_ones(seen: Survey) -> tuple[Odd, ...]:
    usable = seen.decodable
    width, height = np.log(seen.sizes[usable]).T
    is_reference = seen.sets[usable] == 0
    found = []
    for values, factor, kinds in (
        ((width + height) / 2, SIDE_FACTOR, ("small", "large")),
        (width - height, SHAPE_FACTOR, ("narrow", "wide")),
    ):
        excess = distance_from_usual(values, values[is_reference], np.log(factor))
        for row in np.flatnonzero(excess):
            found.append((abs(excess[row]), Odd(int(usable[row]), kinds[int(excess[row] > 0)])))
    return tuple(odd for _, odd in sorted(found, key=lambda entry: -entry[0]))


def distance_from_usual(values: np.ndarray, reference: np.ndarray, least: float) -> np.ndarray:
    """How far values lie from a reference's median, (N,), in units of what is allowed; 0 where not farther.

    Allowed is `least`, or `SPREADS` standard deviations of the reference where these are more; they are taken
    from its median absolute deviation, which odd ones do not widen.

    Args:
        values: (N,).
        reference: (M,), what is usual.
        least: distance from the median that is always allowed.
    """
    if not len(reference):
        return np.zeros(len(values))
    middle = np.median(reference)
    allowed = max(least, SPREADS * _DEVIATION * float(np.median(abs(reference - middle))))
    distances = (values - middle) / allowed
    return np.where(abs(distances) > 1, distances, 0.0)
