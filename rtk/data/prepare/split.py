"""Cut a source into training, validation and test images: every class in each, groups kept whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rtk.data.prepare.allocate import allocate, class_counts, targets
from rtk.data.prepare.grouping import given_groups, joined, see
from rtk.data.prepare.records import Record, Source, Split
from rtk.data.sets.duplicates import group_rows
from rtk.runtime.console import Progress

PARTS = ("train", "validation", "test")
_TOLERANCE = 0.1  # of all images, by which groups may move a share; and by no more than half of it


@dataclass(frozen=True)
class SplitOptions:
    """How to split.

    Attributes:
        fractions: shares of `PARTS`, which sum to 1; 0 leaves one out.
        seed: of the random choices.
        group_by: column of a Parquet source; images of one value stay together.
        group_pattern: regular expression that is searched for in each path; images for which its groups (or,
            where it has none, all it matches) are the same stay together.
        near_duplicates: whether to look for near-duplicates, and to keep them together.
    """

    fractions: tuple[float, ...]
    seed: int = 0
    group_by: str | None = None
    group_pattern: str | None = None
    near_duplicates: bool = True


@dataclass(frozen=True)
class SplitReport:
    """How a source was split.

    Attributes:
        options: what was asked for.
        reached: shares of `PARTS`.
        groups: number of groups by column or pattern; None where neither was asked for.
        near_duplicate_groups: number of groups of near-duplicates; None where none were looked for.
        near_duplicate_images: number of images in these.
        largest_near_duplicates: number of images in the largest.
    """

    options: SplitOptions
    reached: tuple[float, ...]
    groups: int | None = None
    near_duplicate_groups: int | None = None
    near_duplicate_images: int | None = None
    largest_near_duplicates: int | None = None


def parse_fractions(text: str) -> tuple[float, ...]:
    """Fractions from text such as `0.7/0.15/0.15`.

    Raises:
        ValueError: they are not three, not numbers from 0 to 1, or do not sum to 1.
    """
    wanted = "wanted TRAIN/VALIDATION/TEST that sum to 1, such as 0.7/0.15/0.15 (0 leaves one out)"
    try:
        fractions = tuple(float(part) for part in text.split("/"))
    except ValueError:
        raise ValueError(f"--split: got {text!r}, {wanted}") from None
    if len(fractions) != len(PARTS) or not all(0 <= part <= 1 for part in fractions) or not fractions[0]:
        raise ValueError(f"--split: got {text!r}, {wanted}")
    if abs(sum(fractions) - 1) > 0.002:
        raise ValueError(f"--split: got {text!r}, which sums to {sum(fractions):g}, {wanted}")
    return tuple(part / sum(fractions) for part in fractions)


def split_source(
    source: Source, where: Path, options: SplitOptions, progress: Progress
) -> tuple[Source, SplitReport]:
    """The same source in the parts of a split; a function of its images, their order and the options.

    Images that cannot be decoded do not count here; they go to the largest part, where writing finds them.

    Args:
        source: with one split.
        where: it lies, for messages.
        options: see there.
        progress: called with (images looked at, images in all).

    Raises:
        ValueError: it has splits already, a class has too few images, groups cannot be made or do not allow
            the fractions.
    """
    if len(source.splits) > 1:
        there = ", ".join(split.name for split in source.splits)
        raise ValueError(f"--split: {where} has splits already ({there}); wanted one of them alone, or none")
    (whole,) = source.splits
    seen = see(whole, options.near_duplicates, progress)
    fractions = np.array(options.fractions)
    usable = np.flatnonzero(seen.usable)
    labels = seen.labels[usable]
    _check_counts(np.bincount(labels, minlength=len(source.classes)), fractions, source.classes)
    given = given_groups(source, seen.paths, options.group_by, options.group_pattern)
    together = joined([groups for groups in (given, seen.alike) if groups is not None], whole.count)
    parts = np.full(whole.count, fractions.argmax())
    parts[usable] = allocate(labels, together[usable], fractions, options.seed)
    counts = class_counts(labels, parts[usable], len(source.classes), len(PARTS))
    _check_reached(counts, fractions, source.classes)
    splits = tuple(
        Split(name, int((parts == part).sum()), partial(_chosen, whole, parts == part))
        for part, name in enumerate(PARTS)
        if fractions[part]
    )
    reached = tuple((counts.sum(0) / counts.sum()).tolist())
    return replace(source, splits=splits), _report(options, reached, given, seen.alike)


def _report(
    options: SplitOptions, reached: tuple[float, ...], given: np.ndarray | None, alike: np.ndarray | None
) -> SplitReport:
    groups = None if given is None else len(np.unique(given))
    if alike is None:
        return SplitReport(options, reached, groups)
    sizes = [len(rows) for rows in group_rows(alike)]
    return SplitReport(options, reached, groups, len(sizes), sum(sizes), max(sizes, default=0))


def _chosen(whole: Split, is_chosen: np.ndarray) -> Iterator[Record]:
    for record, chosen in zip(whole.read(), is_chosen, strict=True):
        if chosen:
            yield record


def _check_counts(counts: np.ndarray, fractions: np.ndarray, classes: tuple[str, ...]) -> None:
    used = [name for name, share in zip(PARTS, fractions, strict=True) if share]
    few = [label for label in np.flatnonzero(counts) if counts[label] < len(used)]
    if few:
        shown = ", ".join(f"{classes[label]!r} ({counts[label]})" for label in few[:10])
        more = f" and {len(few) - 10} more classes" if len(few) > 10 else ""
        raise ValueError(
            f"--split: too few images of {shown}{more}; wanted at least {len(used)} of each class, one for "
            f"each of {', '.join(used)}"
        )


def _check_reached(counts: np.ndarray, fractions: np.ndarray, classes: tuple[str, ...]) -> None:
    """Raise where groups leave a class out of a part, or shares far from those without groups."""
    total = max(1, counts.sum())
    reached, possible = (each.sum(0) / total for each in (counts, targets(counts.sum(1), fractions)))
    lacking = [
        f"no image of {classes[label]!r} in {PARTS[part]}"
        for label, part in np.argwhere(counts == 0)
        if fractions[part] and counts[label].any()
    ]
    if lacking or (abs(reached - possible) > np.minimum(_TOLERANCE, possible / 2) + 1e-9).any():
        shares, wanted = ("/".join(f"{share:.2f}" for share in row) for row in (reached, fractions))
        why = f", with {lacking[0]}" if lacking else ""
        why += f" and {len(lacking) - 1} more such gaps" if len(lacking) > 1 else ""
        raise ValueError(
            f"--split: wanted {wanted}, but groups that stay together allow {shares}{why}; wanted other "
            "fractions, smaller groups, or --ignore-duplicates where near-duplicates are what is grouped"
        )
