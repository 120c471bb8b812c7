"""Counting what a threshold on a score accepts, one point per distinct score."""

import numpy as np

from rtk.metrics._checks import BoolArray, FloatArray, IntArray


def count_accepted(scores: FloatArray, flags: BoolArray) -> tuple[FloatArray, IntArray, IntArray]:
    """Count the samples with `score >= threshold`, for every distinct score as threshold.

    Equal scores are accepted together, so the counts do not depend on the order of the samples.

    Args:
        scores: (N,), larger = accepted earlier.
        flags: (N,).

    Returns:
        thresholds (T,) strictly decreasing, accepted flagged samples (T,), accepted samples (T,).
    """
    # NumPy sorts values in a third of the time that indices take; the flagged ones are looked up again.
    ranked = np.sort(-scores)
    n_accepted = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, ranked.size)
    thresholds = ranked[n_accepted - 1]
    if 2 * np.count_nonzero(flags) <= flags.size:
        n_flagged = np.searchsorted(np.sort(-scores[flags]), thresholds, side="right")
    else:
        n_flagged = n_accepted - np.searchsorted(np.sort(-scores[~flags]), thresholds, side="right")
    return -thresholds, n_flagged, n_accepted
