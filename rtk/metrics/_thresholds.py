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
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie_group = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
    n_flagged = np.cumsum(flags[order])[last_of_tie_group]
    return ranked[last_of_tie_group], n_flagged, last_of_tie_group + 1
