"""How far a metric could have come out otherwise: percentile bootstrap intervals (Efron, 1979).

A stratum is a tuple of arrays over the same images; its rows are drawn together, with replacement, as many as
there are. Strata are drawn apart, so that every resample has as many ID and as many OOD images as the data:

    bootstrap_interval(ds_aurc, (id_confidence, id_ood_score, id_correct), (ood_confidence, ood_ood_score))

A metric gets the arrays of all strata in their order. Any function of arrays will do: of predictions, of
probabilities (N, C), or `np.mean` of one value a run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtk.metrics._checks import IntArray, require_positive_int

Metric = Callable[..., float]
Stratum = Sequence[ArrayLike]
_Arrays = tuple[NDArray[Any], ...]

_BLOCK_DRAWS = 2**22  # row numbers drawn at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval.

    Attributes:
        estimate: the metric of the data themselves.
        low: lower end.
        high: upper end.
        level: share of the resamples inside, in (0, 1).
    """

    estimate: float
    low: float
    high: float
    level: float


def proportion_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share of independent images, without resampling (Wilson, 1927).

    Unlike the normal approximation it is right for few images too, and where all or none are hits.

    Args:
        hits: images that are counted, at most `count`.
        count: all images, at least one.

    Returns:
        Its lower and its upper end, in [0, 1].

    Raises:
        ValueError: fewer than one image, or hits that are no part of them.
    """
    if not 0 <= hits <= count or count < 1:
        raise ValueError(f"hits: got {hits} of {count} images, wanted 0..count, and count above 0")
    share, square = hits / count, 1.959964**2 / count
    middle, half = share + square / 2, np.sqrt(share * (1 - share) * square + square**2 / 4)
    return max(0.0, float((middle - half) / (1 + square))), min(1.0, float((middle + half) / (1 + square)))


def bootstrap_interval(
    metric: Metric, *strata: Stratum, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Confidence interval of a metric.

    Args:
        metric: from the arrays of all strata to a number.
        strata: arrays (N, ...) whose rows belong together, usually ID and OOD images; see above.
        resamples: how many; 1,000 settle the ends of a 95 % interval to a few per cent of its width.
        level: in (0, 1).
        seed: of the draws: the same seed and sizes give the same resamples.

    Raises:
        ValueError: no stratum, an empty one, arrays of different lengths in one, `resamples` below 1, `level`
            outside (0, 1), or a metric that cannot be computed on a resample (one without an error, say).
    """
    checked = [_check_stratum(stratum) for stratum in strata]
    return _interval(lambda parts: float(metric(*_flat(parts))), checked, resamples, level, seed)


def bootstrap_difference(
    metric: Metric,
    first: Sequence[Stratum],
    second: Sequence[Stratum],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Confidence interval of metric(second) - metric(first), two groups that share their images.

    Each resample takes the same rows of both, so what makes images easy or hard for both cancels. Several
    runs a group: arrays (N, runs) and a metric that averages over them; or one value a run and `np.mean`.

    Args:
        metric: from the arrays of all strata to a number.
        first: strata of the one group, as in `bootstrap_interval`.
        second: strata of the other, row by row the same images.
        resamples: how many.
        level: in (0, 1).
        seed: of the draws.

    Raises:
        ValueError: as `bootstrap_interval`, or where the groups' strata differ in number, arrays or length.
    """
    one, other = ([_check_stratum(stratum) for stratum in group] for group in (first, second))
    shapes, other_shapes = ([(len(a), len(a[0])) for a in group] for group in (one, other))
    if shapes != other_shapes:
        raise ValueError(f"second: got strata of (arrays, rows) {other_shapes}, wanted {shapes} as in first")

    def difference(parts: Sequence[_Arrays]) -> float:
        halves = [(arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]) for arrays in parts]
        return float(metric(*_flat([b for _, b in halves]))) - float(metric(*_flat([a for a, _ in halves])))

    # One stratum holds the arrays of both groups, so that both take the same rows of it.
    joined = [mine + others for mine, others in zip(one, other, strict=True)]
    return _interval(difference, joined, resamples, level, seed)


def _interval(
    statistic: Callable[[Sequence[_Arrays]], float],
    strata: Sequence[_Arrays],
    resamples: int,
    level: float,
    seed: int,
) -> Interval:
    require_positive_int("resamples", resamples)
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, wanted a number in (0, 1)")
    if not strata:
        raise ValueError("strata: got none, wanted at least one")
    estimate, values = statistic(strata), np.empty(resamples)
    sizes = [len(arrays[0]) for arrays in strata]
    for i, drawn in enumerate(resample_rows(sizes, resamples, seed)):
        taken = [tuple(a[rows] for a in arrays) for arrays, rows in zip(strata, drawn, strict=True)]
        try:
            values[i] = statistic(taken)
        except ValueError as error:
            raise ValueError(f"metric: the data have it, a resample of them does not: {error}") from None
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level)


def resample_rows(sizes: Sequence[int], resamples: int, seed: int) -> Iterator[list[IntArray]]:
    """Row numbers of each stratum (of `sizes`), resample by resample; many metrics can share them."""
    generators = [np.random.default_rng([seed, number]) for number in range(len(sizes))]
    block = max(1, _BLOCK_DRAWS // sum(sizes))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = [g.integers(0, size, (count, size)) for g, size in zip(generators, sizes, strict=True)]
        yield from ([rows[i] for rows in drawn] for i in range(count))


def _check_stratum(stratum: Stratum) -> _Arrays:
    arrays = tuple(np.asarray(values) for values in stratum)
    sizes = [array.shape[0] if array.ndim else 0 for array in arrays]
    if not sizes or len(set(sizes)) > 1 or sizes[0] == 0:
        raise ValueError(f"strata: got arrays of {sizes} rows, wanted equally many, at least one")
    return arrays


def _flat(strata: Sequence[_Arrays]) -> list[NDArray[Any]]:
    return [array for arrays in strata for array in arrays]
