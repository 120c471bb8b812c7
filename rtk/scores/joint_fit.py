"""Fits a joint rule to validation ID and OOD images.

`rectangle`: thresholds that rise together along the path that has the least risk over all coverages, found by
dynamic programming on a grid of quantiles. The score says how far along the path an image is accepted.
`linear`: -(r + b g), with r and g from isotonic regression on the confidence and on the OOD score, and b by
DS-AURC. `monotone`: (wrong + OOD) / ID images in the cells of a grid, regressed to rise in neither score.

A rule that is not better than the rectangle by cross-validation is the rectangle: it is that at its worst.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import isotonic_regression

from rtk.metrics import ood_aurc
from rtk.metrics._acceptance import accumulate, histogram
from rtk.metrics._checks import BoolArray, FloatArray, IntArray, require_choice
from rtk.scores.joint_rule import RULES, JointRule, Rule
from rtk.scores.threshold_search import ScoredImages

STEPS, CELLS, BINS = 40, 12, 25  # of the path, of the monotone grid, and of both regressions
WEIGHTS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.5, 5.0, 10.0)  # b, in ratios of the images' numbers
FOLDS, FEWEST = 2, 10  # of cross-validation; images of each kind without which it says nothing
SLOPE = 1e-6  # what is flat still ranks


def fit_joint_rule(images: ScoredImages, rule: Rule) -> JointRule:
    """Fit a rule to validation images.

    Args:
        images: ID and OOD images.
        rule: one of the three; of `linear` and `monotone` the rectangle is taken where cross-validation does
            not find them better.

    Raises:
        ValueError: an unknown rule, or images without OOD ones or without wrong ones.
    """
    require_choice("rule", rule, RULES)
    if images.is_id.all() or not images.is_id.any():
        raise ValueError("images: got only ID or only OOD images, wanted both")
    enough = min(images.is_id.sum(), (~images.is_id).sum()) >= FEWEST
    if enough and cross_validated(images, rule) < cross_validated(images, "rectangle"):
        return _FITS[rule](images)
    return _FITS["rectangle"](images)


def cross_validated(images: ScoredImages, rule: Rule) -> float:
    """DS-AURC along a rule's score, of images that it was not fitted on: the mean over folds."""
    fold = np.zeros(images.is_id.size, np.int64)
    for kind in (images.is_id, ~images.is_id):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(kind))
        fold[rows] = np.arange(rows.size) % FOLDS
    return float(
        np.mean(
            [joint_aurc(_FITS[rule](images.only(fold != n)), images.only(fold == n)) for n in range(FOLDS)]
        )
    )


def joint_aurc(rule: JointRule, images: ScoredImages) -> float:
    """DS-AURC where one threshold of a rule's score decides."""
    score = rule.score(images.confidence, images.ood_score)
    return ood_aurc(score[images.is_id], images.is_correct[images.is_id], score[~images.is_id])


def _fit_rectangle(images: ScoredImages) -> JointRule:
    tau_id, tau_ood = (_knots(values, STEPS) for values in (images.confidence, images.ood_score))
    risk, coverage = _grid(images, tau_ood, tau_id)
    rows, columns = _best_path(risk, coverage)
    # Threshold i is passed at the first step of the path that lies beyond it.
    u, v = (_times(steps, size) for steps, size in ((columns, tau_id.size), (rows, tau_ood.size)))
    return JointRule("rectangle", tau_id.tolist(), tau_ood.tolist(), u.tolist(), v.tolist(), [])


def _grid(images: ScoredImages, tau_ood: FloatArray, tau_id: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Risk and ID coverage (R, C) of every pair of thresholds."""
    kinds = (images.is_correct & images.is_id, images.is_id, ~images.is_id)
    counts = [histogram(images.ood_score[k], images.confidence[k], tau_ood, tau_id) for k in kinds]
    accepted = accumulate(*counts)
    return 1 - accepted.precision, accepted.id_count / max(int(images.is_id.sum()), 1)


def _best_path(risk: FloatArray, coverage: FloatArray) -> tuple[IntArray, IntArray]:
    """Rows and columns of the path of rising thresholds with the least area below its risk.

    A step to a larger threshold gives up the coverage between, which has the risk of where it came from.
    """
    rows, columns = risk.shape
    cost, down = np.zeros_like(risk), np.zeros(risk.shape, bool)
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            ways = [(risk[i, j] * coverage[i, j], False)] if (i, j) == (rows - 1, columns - 1) else []
            for a, b in ((i + 1, j), (i, j + 1)):
                if a < rows and b < columns:
                    ways.append((risk[i, j] * (coverage[i, j] - coverage[a, b]) + cost[a, b], a > i))
            cost[i, j], down[i, j] = min(ways)
    path = [(0, 0)]
    while path[-1] != (rows - 1, columns - 1):
        i, j = path[-1]
        path.append((i + 1, j) if down[i, j] else (i, j + 1))
    return np.array([i for i, _ in path]), np.array([j for _, j in path])


def _times(steps: IntArray, size: int) -> FloatArray:
    """Last step of the path at which each of `size` thresholds is not exceeded."""
    return (np.searchsorted(steps, np.arange(size), side="right") - 1).astype(np.float64)


def _fit_linear(images: ScoredImages) -> JointRule:
    known = images.is_id
    sure, risk = _regress(images.confidence[known], ~images.is_correct[known])
    familiar, share = _regress(images.ood_score, ~known)
    share = np.clip(share, 0.0, 1 - 1 / (2 * images.is_id.size / share.size))
    odds = share / (1 - share)  # g, times the ratio of the numbers of images
    rules = [
        JointRule(
            "linear",
            sure.tolist(),
            familiar.tolist(),
            (-risk + SLOPE * np.arange(risk.size)).tolist(),
            (-weight * odds + SLOPE * np.arange(odds.size)).tolist(),
            [],
        )
        for weight in WEIGHTS
    ]
    return min(rules, key=lambda rule: joint_aurc(rule, images))


def _regress(scores: FloatArray, bad: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Mean scores of up to `BINS` bins, rising, and the shares of bad images in them, falling."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(BINS, max(2, order.size // 10)))
    centres = np.array([scores[part].mean() for part in parts])
    shares = np.array([(bad[part].sum() + 0.5) / (part.size + 1) for part in parts])
    weights = np.array([part.size for part in parts], np.float64)
    falling = isotonic_regression(shares, weights=weights, increasing=False).x
    first = np.unique(centres, return_index=True)[1]
    if first.size == 1:  # all scores are equal
        return _knots(centres, 2), np.repeat(falling[first], 3)
    return centres[first], falling[first]


def _fit_monotone(images: ScoredImages) -> JointRule:
    edges = [_knots(values, CELLS + 1) for values in (images.confidence, images.ood_score)]
    cells = [
        np.searchsorted(edge[1:-1], v, side="right")
        for edge, v in zip(edges, (images.confidence, images.ood_score), strict=True)
    ]
    shape = tuple(edge.size - 1 for edge in edges)
    place = np.ravel_multi_index(tuple(cells), shape)
    counts = [
        np.bincount(place[kind], minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
        for kind in (images.is_id & images.is_correct, images.is_id & ~images.is_correct, ~images.is_id)
    ]
    right, wrong, others = counts
    cost = np.log((wrong + others + 0.5) / (right + wrong + 0.5))
    falling = _isotonic(-cost, right + wrong + others + 0.05)
    slope = SLOPE * np.add.outer(np.arange(shape[0]), np.arange(shape[1]))
    knots = [((edge[1:] + edge[:-1]) / 2).tolist() for edge in edges]
    return JointRule("monotone", knots[0], knots[1], [], [], (falling + slope).tolist())


def _isotonic(values: FloatArray, weights: FloatArray, rounds: int = 60) -> FloatArray:
    """Nearest table (R, C) that rises along both axes (Dykstra's projections, least weighted squares)."""
    found, rows, columns = values.copy(), np.zeros_like(values), np.zeros_like(values)
    for _ in range(rounds):
        projected = _rising(found + rows, weights)
        rows, found = found + rows - projected, projected
        projected = _rising((found + columns).T, weights.T).T
        columns, found = found + columns - projected, projected
    # What the last rounds have left of falls is below the slope that is added.
    return np.maximum.accumulate(np.maximum.accumulate(found, axis=0), axis=1)


def _rising(values: FloatArray, weights: FloatArray) -> FloatArray:
    lines = zip(values, weights, strict=True)
    return np.array([isotonic_regression(line, weights=weight).x for line, weight in lines])


def _knots(values: FloatArray, count: int) -> FloatArray:
    """Distinct quantiles, the smallest and the largest value among them; of one or two, three around them."""
    knots = np.unique(np.quantile(values, np.linspace(0, 1, count)))
    return knots if knots.size > 2 else np.linspace(knots[0] - 0.5, knots[-1] + 0.5, 3)


_FITS: dict[Rule, Callable[[ScoredImages], JointRule]] = {
    "rectangle": _fit_rectangle,
    "linear": _fit_linear,
    "monotone": _fit_monotone,
}
