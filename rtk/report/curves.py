"""Curves as polylines whose area is the metric that is stated beside them: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtk.metrics import ds_risk_coverage, risk_coverage

Curve = tuple[np.ndarray, np.ndarray]
Pair = tuple[np.ndarray, np.ndarray]

MAX_POINTS = 600  # of a line: more cannot be seen and would make the page heavy


def area(curve: Curve) -> float:
    """Area below a polyline: what is seen below the line."""
    x, y = curve
    return float(np.trapezoid(y, x))


def selective_curve(confidence: np.ndarray, is_correct: np.ndarray) -> Curve:
    """Risk over coverage of the test set alone, x and y (points,); its area is AURC."""
    found = risk_coverage(confidence, is_correct)
    return np.append(0.0, found.coverage), np.append(found.risk[0], found.risk)


def joint_curve(
    pair: Pair, is_correct: np.ndarray, ood_pairs: Sequence[Pair], method: str = "exact"
) -> Curve:
    """Lowest risk over coverage with OOD images, mean over OOD sets; its area is the mean of their DS-AURC.

    Args:
        pair: confidence and OOD score of the test images, each (N,).
        is_correct: (N,) booleans.
        ood_pairs: the same of each OOD set, at least one.
        method: of DS-AURC; "exact" gives stairs, as it is the mean of the risks at coverages 1/N ... 1.
    """
    found = [ds_risk_coverage(*pair, is_correct, *ood, method=method) for ood in ood_pairs]  # type: ignore[arg-type]
    coverage, risk = found[0][0], np.mean([risks for _, risks in found], axis=0)
    if method == "grid":
        return coverage, risk
    return np.repeat(np.append(0.0, coverage), 2)[1:-1], np.repeat(risk, 2)


def thinned(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """A polyline of at most `most` points with the same area between any two points that are kept.

    The first points are all kept, for there risk changes fastest; between two that are kept stands one that
    makes up for those left out.
    """
    x, y = curve
    if len(x) <= most:
        return curve
    first = most // 4
    spaced = np.linspace(first, len(x) - 1, (most - first) // 2)
    kept = np.append(np.arange(first), np.unique(spaced.astype(int)))
    below = np.append(0.0, np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2))[kept]
    x, y = x[kept], y[kept]
    widths, ends = np.diff(x), y[1:] + y[:-1]
    heights = ends / 2
    wide = widths > 0
    heights[wide] = 2 * np.diff(below)[wide] / widths[wide] - ends[wide] / 2
    between = np.flatnonzero(np.diff(kept) > 1)
    places = between + 1
    return np.insert(x, places, (x[1:] + x[:-1])[between] / 2), np.insert(y, places, heights[between])


def every_nth(curve: Curve, most: int = MAX_POINTS) -> Curve:
    """At most `most` points of a history, evenly chosen, the ends among them."""
    x, y = curve
    keep = np.unique(np.linspace(0, len(x) - 1, most).astype(int))
    return x[keep], y[keep]
