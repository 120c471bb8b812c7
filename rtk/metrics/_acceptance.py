"""What a pair of thresholds (tau_OOD, tau_ID) accepts: the counts under every joint metric."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import (
    BoolArray,
    FloatArray,
    IntArray,
    as_flags,
    as_scores,
    require_finite,
    require_same_length,
)


@dataclass(frozen=True)
class Images:
    """Scores of N in-distribution and M OOD images, checked."""

    id_confidence: FloatArray
    id_ood_score: FloatArray
    id_correct: BoolArray
    ood_confidence: FloatArray
    ood_ood_score: FloatArray

    @property
    def n_id(self) -> int:
        """Number of in-distribution images N."""
        return self.id_correct.size

    def ood_score_range(self) -> tuple[float, float]:
        """Smallest and largest OOD score of all images; ValueError if infinite."""
        require_finite(id_ood_score=self.id_ood_score, ood_ood_score=self.ood_ood_score)
        return _range(self.id_ood_score, self.ood_ood_score)

    def confidence_range(self) -> tuple[float, float]:
        """Smallest and largest confidence of all images; ValueError if infinite."""
        require_finite(id_confidence=self.id_confidence, ood_confidence=self.ood_confidence)
        return _range(self.id_confidence, self.ood_confidence)


@dataclass(frozen=True)
class Accepted:
    """Images accepted by R x C pairs of thresholds, one row per tau_OOD and one column per tau_ID.

    Attributes:
        correct: (R, C) ID images with a right prediction.
        id_count: (R, C) ID images.
        total: (R, C) ID and OOD images.
        n_id: ID images there are, accepted or not.
    """

    correct: IntArray
    id_count: IntArray
    total: IntArray
    n_id: int

    @property
    def f1(self) -> FloatArray:
        """F1 (R, C): with precision TP / accepted and recall TP / N it is 2 TP / (accepted + N)."""
        return 2 * self.correct / (self.total + self.n_id)

    @property
    def precision(self) -> FloatArray:
        """Right predictions among the accepted images (R, C); 0 where nothing is accepted."""
        return self.correct / np.maximum(self.total, 1)


def check_images(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
) -> Images:
    """Check the five inputs of a joint metric: (N,), (N,), (N,), (M,), (M,).

    Raises:
        ValueError: empty input, NaN, or different lengths.
    """
    images = Images(
        as_scores("id_confidence", id_confidence),
        as_scores("id_ood_score", id_ood_score),
        as_flags("id_correct", id_correct),
        as_scores("ood_confidence", ood_confidence),
        as_scores("ood_ood_score", ood_ood_score),
    )
    require_same_length(
        id_confidence=images.id_confidence, id_ood_score=images.id_ood_score, id_correct=images.id_correct
    )
    require_same_length(ood_confidence=images.ood_confidence, ood_ood_score=images.ood_ood_score)
    return images


def histogram(
    ood_score: FloatArray, confidence: FloatArray, tau_ood: FloatArray, tau_id: FloatArray
) -> IntArray:
    """Count images by the largest of the increasing thresholds that they reach.

    Returns:
        (R, C) counts; images below the lowest threshold of either kind are left out.
    """
    row = np.searchsorted(tau_ood, ood_score, side="right") - 1
    column = np.searchsorted(tau_id, confidence, side="right") - 1
    inside = (row >= 0) & (column >= 0)
    cells = row[inside] * tau_id.size + column[inside]
    return np.bincount(cells, minlength=tau_ood.size * tau_id.size).reshape(tau_ood.size, tau_id.size)


def accumulate(correct: IntArray, id_count: IntArray, ood_count: IntArray) -> Accepted:
    """From histograms (R, C) of right ID, ID and OOD images to what each pair of thresholds accepts."""
    accepted_id = _at_least(id_count)
    total = _at_least(ood_count)
    total += accepted_id
    return Accepted(_at_least(correct), accepted_id, total, int(id_count.sum()))


def _at_least(counts: IntArray) -> IntArray:
    """Sum (R, C) over all rows from i on and all columns from j on."""
    reversed_sums = np.cumsum(counts[::-1, ::-1], axis=1)
    return np.cumsum(reversed_sums, axis=0, out=reversed_sums)[::-1, ::-1]


def _range(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    return float(min(first.min(), second.min())), float(max(first.max(), second.max()))
