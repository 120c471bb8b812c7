"""The two thresholds of the largest coverage whose risk on given images is at most a wanted one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_OOD_THRESHOLDS = 500  # tried: more move the coverage by less than 1 / 500


@dataclass(frozen=True)
class ScoredImages:
    """Confidence and OOD score of N images and whether each is right; OOD images are never right.

    Attributes:
        confidence: (N,).
        ood_score: (N,).
        is_correct: (N,) booleans.
        is_id: (N,) booleans, in-distribution images.
        predicted: (N,) classes, where they matter.
    """

    confidence: NDArray[np.float64]
    ood_score: NDArray[np.float64]
    is_correct: NDArray[np.bool_]
    is_id: NDArray[np.bool_]
    predicted: NDArray[np.int64] | None = None

    def only(self, rows: NDArray[Any]) -> ScoredImages:
        """Some of the images: by flags (N,), or by row number and in that order."""
        predicted = None if self.predicted is None else self.predicted[rows]
        return ScoredImages(
            self.confidence[rows], self.ood_score[rows], self.is_correct[rows], self.is_id[rows], predicted
        )


def combine(
    confidence: ArrayLike,
    ood_score: ArrayLike,
    is_correct: ArrayLike,
    ood_confidence: ArrayLike = (),
    ood_ood_score: ArrayLike = (),
    predicted: ArrayLike | None = None,
) -> ScoredImages:
    """In-distribution images (N,), and where given OOD images (M,), as one set (N + M,).

    Args:
        confidence: (N,).
        ood_score: (N,).
        is_correct: (N,).
        ood_confidence: (M,).
        ood_ood_score: (M,).
        predicted: (N + M,), where classes matter.
    """
    id_scores, ood_scores = np.asarray(confidence, np.float64), np.asarray(ood_confidence, np.float64)
    wrong = np.zeros(ood_scores.size, bool)
    return ScoredImages(
        np.append(id_scores, ood_scores),
        np.append(np.asarray(ood_score, np.float64), np.asarray(ood_ood_score, np.float64)),
        np.append(np.asarray(is_correct, bool), wrong),
        np.arange(id_scores.size + ood_scores.size) < id_scores.size,
        None if predicted is None else np.asarray(predicted, np.int64),
    )


def choose_thresholds(
    images: ScoredImages, risk: float, id_coverage: float = 0.95
) -> tuple[float, float] | None:
    """Thresholds (tau_ID, tau_OOD) of the largest coverage whose risk on these images is at most `risk`.

    With OOD images among them both thresholds are searched; without, tau_OOD keeps `id_coverage` of the
    images and tau_ID alone is searched. The risk is that of the images' own mixture of ID and OOD.

    Args:
        images: validation images.
        risk: wanted share of wrong images among the accepted.
        id_coverage: see above.

    Returns:
        None where no pair of thresholds that accepts an ID image reaches the risk.
    """
    id_scores = images.ood_score[images.is_id]
    if images.is_id.all():
        candidates = np.quantile(id_scores, [1 - id_coverage], method="lower")
    else:
        distinct = np.unique(id_scores)
        places = np.linspace(0, distinct.size - 1, min(distinct.size, MAX_OOD_THRESHOLDS)).astype(int)
        candidates = distinct[places]
    ordered = by_confidence(images)
    options = [(*best_tau_id(ordered, tau_ood, risk), float(tau_ood)) for tau_ood in candidates]
    accepted, tau_id, tau_ood = max(options)
    return (tau_id, tau_ood) if accepted else None


def by_confidence(images: ScoredImages) -> ScoredImages:
    """The same images, the most confident first."""
    return images.only(np.argsort(-images.confidence, kind="stable"))


def best_tau_id(ordered: ScoredImages, tau_ood: float, risk: float, extra: int = 0) -> tuple[int, float]:
    """ID images accepted, and tau_ID, of the largest coverage at one tau_OOD; (0, inf) where none will do.

    Args:
        ordered: of `by_confidence`.
        tau_ood: smallest OOD score that is accepted.
        risk: largest share of wrong images among the accepted.
        extra: so many more wrong images count as accepted.
    """
    familiar = ordered.ood_score >= tau_ood
    confidence = ordered.confidence[familiar]
    if not confidence.size:
        return 0, np.inf
    accepted = np.arange(1, confidence.size + 1) + extra
    wrong = np.cumsum(~ordered.is_correct[familiar]) + extra
    id_images = np.cumsum(ordered.is_id[familiar])
    # Equal confidences are accepted together: only the last of them is a threshold.
    last = np.append(confidence[1:] != confidence[:-1], True)
    good = np.flatnonzero(last & (wrong <= risk * accepted) & (id_images > 0))
    if not good.size:
        return 0, np.inf
    return int(id_images[good[-1]]), float(confidence[good[-1]])
