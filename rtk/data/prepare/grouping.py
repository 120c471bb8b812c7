"""Which images of a source belong together: near-duplicates, and groups by a column or a pattern of paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtk.data.prepare.records import Source, Split
from rtk.data.sets.duplicates import components, near_duplicates
from rtk.data.sets.fingerprint import Fingerprints, Look, look_at_each
from rtk.runtime.console import Progress


@dataclass(frozen=True)
class Seen:
    """What is known of the N images of a source after going through it once.

    Attributes:
        labels: int64 (N,).
        paths: of each image; None where the source does not say.
        usable: (N,) whether an image can be decoded, as far as it was looked at.
        alike: int64 (N,), the same number for near-duplicates; None where they were not looked for.
    """

    labels: np.ndarray
    paths: list[str | None]
    usable: np.ndarray
    alike: np.ndarray | None


def see(whole: Split, near: bool, progress: Progress) -> Seen:
    """Go through a split once.

    Args:
        whole: all images of a source.
        near: look at every image, for near-duplicates.
        progress: called with (images done, images in all).
    """
    labels = np.zeros(whole.count, np.int64)
    paths: list[str | None] = []
    usable = np.ones(whole.count, bool)
    prints = Fingerprints.for_images(whole.count if near else 0)
    records = whole.read()
    looked = look_at_each(records, lambda record: record.encoded()) if near else ((r, None) for r in records)
    for row, (record, look) in enumerate(looked):
        labels[row] = record.label
        paths.append(record.path)
        if isinstance(look, Look):
            prints.put(row, look)
        usable[row] = not isinstance(look, str)
        progress(row + 1, whole.count)
    return Seen(labels, paths, usable, _alike(prints, usable) if near else None)


def _alike(prints: Fingerprints, usable: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(usable)
    return components(rows[near_duplicates(prints.take(rows))], len(usable))


def given_groups(
    source: Source, paths: Sequence[str | None], column: str | None, pattern: str | None
) -> np.ndarray | None:
    """Number of the group that each image is in, int64 (N,); None where no groups were asked for.

    Args:
        source: the source.
        paths: of its images.
        column: images of one value in it stay together.
        pattern: regular expression; see `SplitOptions`.

    Raises:
        ValueError: there is no such column, a value is missing, or the pattern is wrong or not in all paths.
    """
    if column is not None:
        if source.column is None:
            raise ValueError(
                f"--group-by: {source.kind} has no columns; --group-pattern takes groups from the paths"
            )
        return source.column(column)
    return None if pattern is None else _pattern_groups(paths, pattern)


def _pattern_groups(paths: Sequence[str | None], pattern: str) -> np.ndarray:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ValueError(f"--group-pattern: got {pattern!r}, no regular expression ({error})") from None
    numbers: dict[tuple[str | None, ...], int] = {}
    groups = np.zeros(len(paths), np.int64)
    lacking = []
    for row, path in enumerate(paths):
        if path is None:
            raise ValueError("--group-pattern: the images of this source have no paths")
        match = search(path)
        if match is None:
            lacking.append(path)
        else:
            groups[row] = numbers.setdefault(match.groups() or (match[0],), len(numbers))
    if lacking:
        raise ValueError(
            f"--group-pattern: {pattern!r} is not in {len(lacking)} of the {len(paths)} paths, such as "
            f"{lacking[0]}; wanted a pattern that is in all"
        )
    return groups


def joined(groupings: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Groups, int64 (count,), in which everything stays together that any of the groupings keeps together."""
    pairs = [np.empty((0, 2), np.int64)]
    for groups in groupings:
        order = np.argsort(groups, kind="stable")
        same = groups[order[1:]] == groups[order[:-1]]
        pairs.append(np.stack([order[:-1][same], order[1:][same]], 1))
    return components(np.concatenate(pairs), count)
