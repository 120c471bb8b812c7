"""Near-duplicates among many images, without comparing every pair."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from rtk.data.sets.fingerprint import Fingerprints

DISTANCE = 7  # most bits in which the hashes of near-duplicates differ; more would need more bands
# Most pairs this close are other pictures. What thumbnails must have in common was chosen on photographs and
# digits: copies as JPEG, in another size or brightness pass, and few others (docs/howto/data.md).
CORRELATION = 0.97
BRIGHTNESS = 64.0  # grey levels between the means of two thumbnails
_NOISE = 5.0  # grey levels; contrast below that counts as none, so that two plain areas are alike

_BANDS, _BAND_BITS = 4, 16
_PROBES = np.array([0, *(1 << bit for bit in range(_BAND_BITS))], np.uint64)
_CODES, _THUMBS = 2**18, 2**13  # pairs whose codes, or thumbnails, are compared at a time: some 50 MB
# Thousands of images may have one hash (black frames): a chain through them is enough to keep them together.
_NEXT_OF_SAME, _OF_CLOSE = 16, 4

Pairs = np.ndarray


def near_duplicates(prints: Fingerprints) -> Pairs:
    """Pairs of images that look the same: hashes within `DISTANCE` bits and thumbnails that correlate.

    The hashes are searched by the multi-index hashing of Norouzi, Punjani and Fleet (arXiv 1307.2982): of two
    hashes within 7 bits, at least one of four bands of 16 bits differs in at most one. So every band is
    looked up as it is and with each of its bits flipped, and no pair within the distance is missed.

    Args:
        prints: of N images.

    Returns:
        int64 (P, 2): rows of the images, the smaller first, in ascending order. Of images with one and the
        same hash not all pairs are listed, but enough for `components`.
    """
    found = [_alike(prints, pairs) for pairs in _candidates(prints.codes)]
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def components(pairs: Pairs, count: int) -> np.ndarray:
    """Number of the group, int64 (count,), that each of `count` things is in when pairs stay together."""
    links = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def group_rows(groups: np.ndarray) -> list[np.ndarray]:
    """Rows of each group of more than one, ascending; the groups in the order of their first rows."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    members = [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]
    return sorted(members, key=lambda rows: int(rows[0]))


def _candidates(codes: np.ndarray) -> Iterator[Pairs]:
    """Pairs of rows whose codes are within the distance."""
    order = np.argsort(codes, kind="stable")
    unique, first, count = np.unique(codes[order], return_index=True, return_counts=True)
    for step in range(1, min(_NEXT_OF_SAME, len(codes) - 1) + 1):
        same = np.flatnonzero(codes[order[:-step]] == codes[order[step:]])
        yield from _chunks(np.stack([order[same], order[same + step]], 1))
    pairs = _close_codes(unique)
    for one in range(_OF_CLOSE):
        for other in range(_OF_CLOSE):
            there = pairs[(count[pairs[:, 0]] > one) & (count[pairs[:, 1]] > other)]
            yield from _chunks(order[first[there] + [one, other]])


def _chunks(pairs: Pairs) -> Iterator[Pairs]:
    yield from (pairs[start : start + _THUMBS] for start in range(0, len(pairs), _THUMBS))


def _close_codes(codes: np.ndarray) -> Pairs:
    """Pairs of different codes (sorted, each once) within the distance."""
    found = [np.empty((0, 2), np.int64)]
    for band in range(_BANDS):
        values = _band(codes, band)
        order = np.argsort(values, kind="stable")
        for probe in _PROBES:
            found += _matches(codes, values, order, probe)
        found = [np.unique(np.concatenate(found), axis=0)]
    return found[0]


def _band(codes: np.ndarray, band: int) -> np.ndarray:
    """Every fourth bit, (N,): neighbouring frequencies go together, so each band has some of all."""
    bits = (codes[:, None] >> np.arange(band, 64, _BANDS, dtype=np.uint64)) & np.uint64(1)
    return (bits << np.arange(_BAND_BITS, dtype=np.uint64)).sum(1, dtype=np.uint64)


def _matches(codes: np.ndarray, values: np.ndarray, order: np.ndarray, probe: np.uint64) -> Iterator[Pairs]:
    """Pairs within the distance whose values in a band differ by exactly `probe`."""
    ordered, wanted = values[order], values ^ probe
    left = np.searchsorted(ordered, wanted, "left")
    counts = np.searchsorted(ordered, wanted, "right") - left
    ends = np.cumsum(counts)
    start = 0
    while start < len(codes):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - counts[start] + _CODES, "right")))
        part = counts[start:stop]
        one = np.repeat(np.arange(start, stop), part)
        offset = np.arange(len(one)) - np.repeat(np.cumsum(part) - part, part)
        other = order[np.repeat(left[start:stop], part) + offset]
        close = (one < other) & (np.bitwise_count(codes[one] ^ codes[other]) <= DISTANCE)
        yield np.stack([one[close], other[close]], 1)
        start = stop


def _alike(prints: Fingerprints, pairs: Pairs) -> Pairs:
    """Those of the pairs whose thumbnails correlate and are about as bright."""
    one, other = (prints.thumbs[pairs[:, side]].astype(np.float32) for side in (0, 1))
    means = [thumbs.mean(1, keepdims=True) for thumbs in (one, other)]
    one, other = one - means[0], other - means[1]
    noise = one.shape[1] * _NOISE**2
    power = (np.einsum("ij,ij->i", x, x) + noise for x in (one, other))
    correlation = (np.einsum("ij,ij->i", one, other) + noise) / np.sqrt(next(power) * next(power))
    as_bright = abs(means[0] - means[1])[:, 0] <= BRIGHTNESS
    return pairs[(correlation >= CORRELATION) & as_bright]
