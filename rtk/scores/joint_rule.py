"""One score of confidence and OOD score together: rules that accept more than a rectangle does.

At a given coverage of ID images, the fewest images that are wrong or OOD are accepted where r(x) + b g(x) is
smallest: r the risk of an ID image, g the ratio of the densities of OOD and ID images, b their numbers' ratio
(arXiv 2403.16916). A rectangle, two thresholds, is not of that kind. Rules are fitted to validation images
(`rtk.scores.joint_fit`); this module knows what comes of it, a function that rises in both scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import BoolArray, FloatArray

Rule = Literal["rectangle", "linear", "monotone"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class JointRule:
    """A fitted rule; piecewise linear in both scores.

    Attributes:
        rule: as it was fitted: `rectangle` where another was asked for and is no better.
        confidence: knots, rising.
        ood_score: knots, rising.
        confidence_values: at the knots of the confidence, rising: u; of `monotone` empty.
        ood_values: at those of the OOD score, rising: v; of `monotone` empty.
        table: of `monotone` the score at every pair of knots, confidence first.
    """

    rule: Rule
    confidence: list[float]
    ood_score: list[float]
    confidence_values: list[float]
    ood_values: list[float]
    table: list[list[float]]

    def __post_init__(self) -> None:
        """Refuse what is no function of two scores: it may be anybody's."""
        sizes = len(self.confidence), len(self.ood_score)
        if self.rule == "monotone":
            shape = np.shape(self.table) if len({len(row) for row in self.table}) == 1 else ()
        else:
            shape = (len(self.confidence_values), len(self.ood_values))
        numbers = (self.confidence, self.ood_score, self.confidence_values, self.ood_values, *self.table)
        if min(sizes) < 2 or shape != sizes or not all(np.isfinite(part).all() for part in numbers):
            raise ValueError(f"joint: got values {shape} for {sizes} knots, wanted one for each, all finite")
        if any((np.diff(knots) <= 0).any() for knots in (self.confidence, self.ood_score)):
            raise ValueError("joint: got knots that do not rise, wanted rising ones")

    def score(self, confidence: ArrayLike, ood_score: ArrayLike) -> FloatArray:
        """Score (N,) of images by both of theirs (N,); larger = rather accepted."""
        sure, familiar = np.asarray(confidence, np.float64), np.asarray(ood_score, np.float64)
        if self.rule == "monotone":
            return _between(
                np.array(self.table), _place(sure, self.confidence), _place(familiar, self.ood_score)
            )
        u = np.interp(sure, self.confidence, self.confidence_values)
        v = np.interp(familiar, self.ood_score, self.ood_values)
        return np.minimum(u, v) if self.rule == "rectangle" else u + v

    def lacks_familiarity(self, confidence: ArrayLike, ood_score: ArrayLike) -> BoolArray:
        """Whether it is the OOD score, rather than the confidence, that each image (N,) lacks."""
        sure, familiar = np.asarray(confidence, np.float64), np.asarray(ood_score, np.float64)
        surest, most_familiar = (np.full_like(sure, knots[-1]) for knots in (self.confidence, self.ood_score))
        lacking: BoolArray = self.score(surest, familiar) < self.score(sure, most_familiar)
        return lacking


def _place(values: FloatArray, knots: list[float]) -> FloatArray:
    """Position between knots: i + t for a value that lies the share t of the way from knot i to the next."""
    return np.interp(values, knots, np.arange(len(knots)))


def _between(table: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Bilinear interpolation at positions (N,)."""
    i, j = (
        np.clip(place.astype(np.int64), 0, size - 2)
        for place, size in zip((rows, columns), table.shape, strict=True)
    )
    s, t = rows - i, columns - j
    upper = (1 - t) * table[i, j] + t * table[i, j + 1]
    lower = (1 - t) * table[i + 1, j] + t * table[i + 1, j + 1]
    return (1 - s) * upper + s * lower
