"""Whether probabilities mean what they say: calibration errors and proper scores.

All take class probabilities (N, C) and class indices (N,).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import FloatArray, IntArray, as_probabilities_and_labels, require_positive_int


@dataclass(frozen=True)
class ReliabilityCurve:
    """Confidence and accuracy of the predicted class, averaged within bins of confidence.

    Attributes:
        edges: (B + 1,) bin i holds confidences in (edges[i], edges[i + 1]]; the first also edges[0].
        confidence: (B,) mean confidence, NaN in an empty bin.
        accuracy: (B,) fraction correct, NaN in an empty bin.
        count: (B,) samples.
    """

    edges: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    count: IntArray


def reliability_curve(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15, *, equal_mass: bool = False
) -> ReliabilityCurve:
    """Reliability diagram of the predicted class (Guo et al., 2017).

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        bins: number of bins B.
        equal_mass: bins hold equally many samples instead of being equally wide. Equal confidences share a
            bin, so the result does not depend on the order of the data.

    Raises:
        ValueError: bad shapes, values that are not probabilities, labels out of range, or `bins` below 1.
    """
    require_positive_int("bins", bins)
    probs, classes = as_probabilities_and_labels(probabilities, labels)
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == classes
    edges = _equal_mass_edges(confidence, bins) if equal_mass else np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(bin_of, minlength=bins)
    weight = np.where(count > 0, count, np.nan)
    return ReliabilityCurve(
        edges=edges,
        confidence=np.bincount(bin_of, weights=confidence, minlength=bins) / weight,
        accuracy=np.bincount(bin_of, weights=correct, minlength=bins) / weight,
        count=count,
    )


def ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over equally wide bins (Naeini et al., 2015; Guo et al., 2017, eq. 3).

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        bins: number of bins.

    Raises:
        ValueError: as `reliability_curve`.
    """
    return _calibration_error(reliability_curve(probabilities, labels, bins))


def adaptive_ece(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Expected calibration error over equally filled bins (Nguyen & O'Connor, 2015).

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.
        bins: number of bins.

    Raises:
        ValueError: as `reliability_curve`.
    """
    return _calibration_error(reliability_curve(probabilities, labels, bins, equal_mass=True))


def nll(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels, in nats.

    Probabilities below the float64 machine epsilon count as epsilon, so one zero does not make it infinite.

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.

    Raises:
        ValueError: bad shapes, values that are not probabilities, or labels out of range.
    """
    probs, classes = as_probabilities_and_labels(probabilities, labels)
    of_label = probs[np.arange(classes.size), classes]
    return float(-np.log(np.maximum(of_label, np.finfo(np.float64).eps)).mean())


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Brier score (Brier, 1950): squared distance to the one-hot label, summed over classes; in [0, 2].

    Args:
        probabilities: (N, C).
        labels: (N,) class indices.

    Raises:
        ValueError: bad shapes, values that are not probabilities, or labels out of range.
    """
    probs, classes = as_probabilities_and_labels(probabilities, labels)
    of_label = probs[np.arange(classes.size), classes]
    # |p - onehot|^2 = |p|^2 - 2 p_label + 1 needs no one-hot matrix.
    return float(((probs**2).sum(axis=1) - 2 * of_label + 1).mean())


def _calibration_error(curve: ReliabilityCurve) -> float:
    gap = np.abs(curve.accuracy - curve.confidence)
    return float(np.nansum(curve.count * gap) / curve.count.sum())


def _equal_mass_edges(confidence: FloatArray, bins: int) -> FloatArray:
    """Edges (B + 1,) at observed confidences; integer arithmetic, as a rounded quantile could shift a bin."""
    ranked = np.sort(confidence)
    n_up_to = -(-np.arange(1, bins + 1) * ranked.size // bins)
    return np.append(ranked[0], ranked[n_up_to - 1])
