"""The joint metrics on the published grid, from counts that can be made in parts and added up.

SUREPlus (`compute_f1_and_aurc`) takes the thresholds k / 1000 on the confidence and on the OOD score, which
it scales to [0, 1] over all images, in float32. An image matters only through the largest thresholds that it
reaches, so 1001 x 1001 counts are a complete summary of any number of images: two passes over the data, one
for the range of the OOD scores and one for the counts, each in as many parts as one likes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._acceptance import Accepted, Images, accumulate, histogram
from rtk.metrics._checks import (
    BoolArray,
    FloatArray,
    IntArray,
    as_flags,
    as_scores,
    require_finite,
    require_same_length,
)

_STEPS = 1000  # SUREPlus `num_bins`
_EPS = np.float32(1e-12)  # SUREPlus `eps`
_COVERAGE_BINS = 100  # SUREPlus `aurc_bins`
_THRESHOLDS = np.linspace(0, 1, _STEPS + 1, dtype=np.float32).astype(np.float64)


@dataclass(frozen=True)
class ScoreRange:
    """Smallest and largest OOD score of all images, ID and OOD together."""

    low: float
    high: float

    @classmethod
    def from_array(cls, ood_score: ArrayLike) -> ScoreRange:
        """Range of (N,) scores.

        Raises:
            ValueError: empty input, NaN or infinite values.
        """
        scores = as_scores("ood_score", ood_score)
        require_finite(ood_score=scores)
        return cls(float(scores.min()), float(scores.max()))

    def merge(self, other: ScoreRange) -> ScoreRange:
        """Range of the images of both."""
        return ScoreRange(min(self.low, other.low), max(self.high, other.high))

    def scale(self, ood_score: FloatArray) -> FloatArray:
        """Min-max scale to [0, 1] as published: in float32, here held as float64."""
        low, high = np.float32(self.low), np.float32(self.high)
        return ((ood_score.astype(np.float32) - low) / (high - low + _EPS)).astype(np.float64)


@dataclass(frozen=True)
class GridMetrics:
    """The four joint metrics by the published grid."""

    ds_f1: float
    ds_aurc: float
    ood_f1: float
    ood_aurc: float


@dataclass(frozen=True)
class GridCounts:
    """How many images have (i / 1000, j / 1000) as the largest thresholds (tau_OOD, tau_ID) they reach.

    Attributes:
        counts: (3, 1001, 1001) right ID images, ID images, OOD images.
    """

    counts: IntArray

    @classmethod
    def from_arrays(
        cls,
        confidence: ArrayLike,
        ood_score: ArrayLike,
        is_correct: ArrayLike,
        is_ood: ArrayLike,
        score_range: ScoreRange,
    ) -> GridCounts:
        """Count one part of the images, ID and OOD in any order.

        Args:
            confidence: (N,) in [0, 1], larger = more trustworthy.
            ood_score: (N,) within `score_range`, larger = more in-distribution.
            is_correct: (N,) booleans, not looked at for OOD images.
            is_ood: (N,) booleans.
            score_range: range of the OOD scores of all parts.

        Raises:
            ValueError: empty input, NaN, different lengths, a confidence outside [0, 1], or an OOD score
                outside `score_range`.
        """
        confidences, scores = check_confidence(confidence), as_scores("ood_score", ood_score)
        correct, ood = as_flags("is_correct", is_correct), as_flags("is_ood", is_ood)
        require_same_length(confidence=confidences, ood_score=scores, is_correct=correct, is_ood=ood)
        if scores.min() < score_range.low or scores.max() > score_range.high:
            got = f"[{scores.min()}, {scores.max()}]"
            raise ValueError(
                f"ood_score: got values in {got}, wanted [{score_range.low}, {score_range.high}]"
            )
        scaled, rounded = score_range.scale(scores), confidences.astype(np.float32).astype(np.float64)

        def count(chosen: BoolArray) -> IntArray:
            return histogram(scaled[chosen], rounded[chosen], _THRESHOLDS, _THRESHOLDS)

        return cls(np.stack([count(~ood & correct), count(~ood), count(ood)]))

    def merge(self, other: GridCounts) -> GridCounts:
        """Counts of the images of both."""
        return GridCounts(self.counts + other.counts)

    def accepted(self) -> Accepted:
        """What each of the 1001 x 1001 pairs of thresholds accepts.

        Raises:
            ValueError: no ID or no OOD image was counted.
        """
        for name, count in zip(("ID", "OOD"), self.counts[1:].sum(axis=(1, 2)), strict=True):
            if count == 0:
                raise ValueError(f"is_ood: got no {name} image, wanted at least one")
        return accumulate(*self.counts)

    def result(self) -> GridMetrics:
        """The metrics of all images counted.

        Raises:
            ValueError: no ID or no OOD image was counted.
        """
        both = self.accepted()
        # Every confidence reaches 0, so the first column is the rule with the OOD threshold alone.
        ood_only = Accepted(both.correct[:, :1], both.id_count[:, :1], both.total[:, :1], both.n_id)
        return GridMetrics(
            ds_f1=float(both.f1.max()),
            ds_aurc=area(*binned_risk_coverage(both)),
            ood_f1=float(ood_only.f1.max()),
            ood_aurc=area(*binned_risk_coverage(ood_only)),
        )


def count_images(images: Images) -> GridCounts:
    """Counts of images that are in memory.

    Raises:
        ValueError: infinite OOD scores, or a confidence outside [0, 1].
    """
    n_id, n_ood = images.n_id, images.ood_confidence.size
    return GridCounts.from_arrays(
        np.concatenate([images.id_confidence, images.ood_confidence]),
        np.concatenate([images.id_ood_score, images.ood_ood_score]),
        np.concatenate([images.id_correct, np.zeros(n_ood, np.bool_)]),
        np.arange(n_id + n_ood) >= n_id,
        ScoreRange(*images.ood_score_range()),
    )


def binned_risk_coverage(accepted: Accepted) -> tuple[FloatArray, FloatArray]:
    """Smallest risk in each of 100 bins of ID coverage; an empty bin takes that of the next one.

    Returns:
        bin centres (100,) and risks (100,).
    """
    highest_precision = np.full(accepted.n_id + 1, -np.inf)
    np.maximum.at(highest_precision, accepted.id_count.ravel(), accepted.precision.ravel())
    edges = np.linspace(0, 1, _COVERAGE_BINS + 1)
    coverage = np.arange(accepted.n_id + 1, dtype=np.float32) / np.float32(accepted.n_id)
    # The bins are open on the right, in float32 as published: full coverage falls into none of them.
    bin_of = np.searchsorted(edges, coverage, side="right") - 1
    risk = np.full(_COVERAGE_BINS + 1, np.inf)
    np.minimum.at(risk, bin_of, 1 - highest_precision)
    risk[-1] = 1.0  # fills the bins to the right of all others
    return (edges[:-1] + edges[1:]) / 2, filled_from_right(risk)[:-1]


def area(coverage: FloatArray, risk: FloatArray) -> float:
    """Area over the bin centres, 0.005 ... 0.995: a constant risk r gives 0.99 r."""
    return float(np.trapezoid(risk, coverage))


def filled_from_right(risk: FloatArray) -> FloatArray:
    """Replace each infinite value by the next finite one on its right; the last must be finite."""
    source = np.where(np.isfinite(risk), np.arange(risk.size), risk.size - 1)
    return risk[np.minimum.accumulate(source[::-1])[::-1]]


def check_confidence(confidence: ArrayLike) -> FloatArray:
    """Convert to (N,) values that the thresholds 0 ... 1 suit.

    Raises:
        ValueError: empty input, NaN, or values outside [0, 1].
    """
    values = as_scores("confidence", confidence)
    low, high = values.min(), values.max()
    # A softmax in float32 can exceed 1 by a few units in the last place.
    if low < 0 or high > 1 + 1e-6:
        raise ValueError(f"confidence: got values in [{low}, {high}], wanted [0, 1] for method 'grid'")
    return values
