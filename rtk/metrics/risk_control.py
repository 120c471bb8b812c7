"""Tests and bounds behind a decision rule with a guarantee: Learn-then-Test (arXiv 2110.01052) and its parts.

A rule with thresholds fixed beforehand accepts k of n calibration images, w of them wrong. Given k, and
whichever images these are, each accepted one is wrong with the same probability R, the risk among what the
rule accepts, independently of the others: w is binomial (k, R). So P(Bin(k, r) <= w) is an exact p-value
of "the risk is above r" for the ratio itself, wrong among accepted, although k is random: it holds for every
k, hence also on average over k. It does not hold for thresholds that were chosen by the same images; where
several are tried, `fixed_sequence` or `holm` bound the probability that any of them passes wrongly.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainc, betaincinv  # what scipy.stats calls, which takes a second to import

from rtk.metrics._checks import BoolArray, FloatArray


def binomial_p_value(losses: ArrayLike, count: ArrayLike, risk: float) -> FloatArray:
    """Exact p-value of the hypothesis that a probability is above `risk`: P(Bin(count, risk) <= losses).

    Args:
        losses: images that are wrong, whole numbers (T,).
        count: of so many images (T,); 1 where there are none.
        risk: in (0, 1).
    """
    right = np.subtract(count, losses)
    # P(Bin(n, r) <= w) = I_{1 - r}(n - w, w + 1), the regularised incomplete beta function
    below = betainc(np.maximum(right, 1), np.add(losses, 1), 1 - risk)
    return np.where(right > 0, below, 1.0)


def hoeffding_bentkus_p_value(losses: ArrayLike, count: ArrayLike, risk: float) -> FloatArray:
    """P-value of the hypothesis that the mean of losses in [0, 1] is above `risk` (arXiv 2110.01052, eq. 10).

    min(exp(-k h(min(m, r), r)), e P(Bin(k, r) <= ceil(k m))) with the mean m of k losses and h the relative
    entropy; for losses that are 0 or 1 `binomial_p_value` is smaller.

    Args:
        losses: sums of losses (T,).
        count: of so many images (T,); 1 where there are none.
        risk: in (0, 1).
    """
    total, images = np.asarray(losses, np.float64), np.asarray(count, np.float64)
    mean = np.minimum(np.divide(total, images, out=np.ones_like(total), where=images > 0), risk)
    hoeffding = np.exp(-images * relative_entropy(mean, risk))
    bentkus = np.e * binomial_p_value(np.ceil(total), images, risk)
    return np.minimum(hoeffding, np.minimum(bentkus, 1.0))


def relative_entropy(first: ArrayLike, second: float) -> FloatArray:
    """h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)) of coins, in nats; b in (0, 1)."""
    share = np.asarray(first, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        heads = np.where(share > 0, share * np.log(share / second), 0.0)
        tails = np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - second)), 0.0)
    return heads + tails


def fixed_sequence(p_values: ArrayLike, level: float) -> int:
    """How many hypotheses are rejected in their order, up to the first that is not.

    The order must not depend on what is tested on. Each is then tested at the whole level, for a wrong
    rejection needs that of the first true one: any number of them costs nothing.
    """
    kept = np.flatnonzero(~(np.asarray(p_values) <= level))
    return int(kept[0]) if kept.size else int(np.size(p_values))


def holm(p_values: ArrayLike, level: float) -> BoolArray:
    """Which hypotheses (T,) are rejected, any of them wrongly with probability `level` at most (Holm, 1979).

    The i-th smallest p-value is compared with level / (T + 1 - i), up to the first that is larger.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    passes = values[order] <= level / np.arange(values.size, 0, -1)
    rejected = np.zeros(values.size, bool)
    rejected[order[: fixed_sequence(~passes, 0.5)]] = True
    return rejected


def upper_bound(hits: int, count: int, level: float) -> float:
    """Upper confidence bound of a probability (Clopper and Pearson, 1934): too low with probability `level`.

    Args:
        hits: images that are counted, at most `count`.
        count: all images; of none the bound is 1.
        level: in (0, 1).
    """
    return 1.0 if hits >= count else float(betaincinv(hits + 1, count - hits, 1 - level))


def fewest_accepted(risk: float, level: float) -> int:
    """Accepted images without a single wrong one that it takes to reject "the risk is above `risk`"."""
    return int(np.ceil(np.log(level) / np.log1p(-risk)))


def images_needed(
    wrong: ArrayLike, accepted: ArrayLike, images: int, risk: float, level: float
) -> int | None:
    """Estimate with how many calibration images one of T thresholds would pass a test at `level`.

    It takes each threshold's share of accepted and of wrong images as they were found; half a wrong image is
    added, for none among few says little. The bound of Chernoff and Hoeffding gives the number.

    Args:
        wrong: accepted images that are wrong, by threshold (T,).
        accepted: images accepted (T,).
        images: that these were counted on.
        risk: wanted.
        level: of the test.

    Returns:
        None where no threshold's risk seems to lie below the wanted one: more images alone do not help.
    """
    count = np.asarray(accepted, np.float64)
    error = (np.asarray(wrong) + 0.5) / (count + 1)
    below = (error < risk) & (count > 0)
    if not below.any():
        return None
    needed = np.log(1 / level) / relative_entropy(error[below], risk)
    needed = np.maximum(needed, fewest_accepted(risk, level))
    return int(np.ceil((needed * images / count[below]).min()))
