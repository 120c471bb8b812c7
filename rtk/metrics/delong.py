"""Whether one score tells OOD images apart better than another, on the same images: the test of DeLong."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from rtk.metrics.bootstrap import Interval


def auroc_difference(
    first: ArrayLike, second: ArrayLike, sets: Sequence[tuple[ArrayLike, ArrayLike]], level: float = 0.95
) -> Interval:
    """Interval of the mean AUROC of the second score over some OOD sets minus that of the first.

    The AUROC is a mean over pairs of an ID and an OOD image, and so asymptotically normal; its variance
    follows from the share of OOD images below each ID image, and of ID images above each OOD image. The ID
    images are the same for all sets, the OOD images of a set for both scores.

    Args:
        first: the first score of the ID images, (N,), larger = more in-distribution.
        second: the second score of the same images.
        sets: of each OOD set the first and the second score of its images, (M,).
        level: of the interval, in (0, 1).

    Raises:
        ValueError: there is no set, an empty one, or scores of other images.

    Source: DeLong, DeLong & Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 1988; by midranks, Sun & Xu, IEEE Signal Processing Letters
    2014.
    """
    known = (np.asarray(first, np.float64), np.asarray(second, np.float64))
    if not sets or len(known[0]) != len(known[1]):
        raise ValueError(f"sets: got {len(sets)}, and {len(known[0])} and {len(known[1])} ID scores")
    of_known, of_others, estimate = np.zeros(len(known[0])), 0.0, 0.0
    for scores in sets:
        others = [np.asarray(values, np.float64) for values in scores]
        if not len(others[0]) or len(others[0]) != len(others[1]):
            raise ValueError(f"sets: got {len(others[0])} and {len(others[1])} scores of the images of one")
        (one, one_ood), (two, two_ood) = (_placements(*pair) for pair in zip(known, others, strict=True))
        of_known += (two - one) / len(sets)
        of_others += _variance(two_ood - one_ood) / len(sets) ** 2
        estimate += float((two - one).mean()) / len(sets)
    deviation = float(np.sqrt(_variance(of_known) + of_others))
    half = float(norm.ppf((1 + level) / 2)) * deviation
    return Interval(estimate, estimate - half, estimate + half, level)


def _placements(known: NDArray, others: NDArray) -> tuple[NDArray, NDArray]:
    """Share of others below each known score, and of known ones above each other; equal ones count half."""
    ranks = rankdata(np.concatenate([known, others]))
    below = (ranks[: len(known)] - rankdata(known)) / len(others)
    above = 1 - (ranks[len(known) :] - rankdata(others)) / len(known)
    return below, above


def _variance(values: NDArray) -> float:
    """Of the mean of independent values."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
