"""Selective classification on in-distribution data: the risk-coverage curve and the areas under it.

A classifier that may abstain accepts an image if its confidence reaches a threshold. Coverage is the accepted
fraction, (selective) risk the error rate among the accepted.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import (
    BoolArray,
    FloatArray,
    as_flags,
    as_scores,
    require_choice,
    require_fraction,
    require_same_length,
)
from rtk.metrics._thresholds import count_accepted

AurcVariant = Literal["tie_aware", "mean", "trapezoid", "torch_uncertainty", "rat"]


@dataclass(frozen=True)
class RiskCoverage:
    """A risk-coverage curve: accepting `confidence >= threshold[i]` gives `coverage[i]` and `risk[i]`.

    Attributes:
        coverage: (T,) accepted fraction, strictly increasing to 1.
        risk: (T,) error rate among the accepted.
        threshold: (T,) the distinct confidences, strictly decreasing.
    """

    coverage: FloatArray
    risk: FloatArray
    threshold: FloatArray


def accuracy(is_correct: ArrayLike) -> float:
    """Fraction of right predictions: 1 minus the risk at full coverage.

    Args:
        is_correct: (N,) booleans.

    Raises:
        ValueError: empty input, or anything but booleans.
    """
    return float(as_flags("is_correct", is_correct).mean())


def selective_classification(confidence: ArrayLike, is_correct: ArrayLike) -> dict[str, float]:
    """Accuracy and the tie-aware areas, from one sort of the data.

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.

    Returns:
        `accuracy`, `aurc`, `e_aurc` and `augrc`.

    Raises:
        ValueError: empty input, NaN, or different lengths.
    """
    curve = risk_coverage(confidence, is_correct)
    area = _tie_aware_area(curve)
    return {
        "accuracy": float(1 - curve.risk[-1]),
        "aurc": area,
        "e_aurc": area - _perfect_area(1 - float(curve.risk[-1])),
        "augrc": _generalised_area(curve),
    }


def risk_coverage(confidence: ArrayLike, is_correct: ArrayLike) -> RiskCoverage:
    """Risk and coverage at every distinct threshold (El-Yaniv & Wiener, 2010).

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.

    Raises:
        ValueError: empty input, NaN, or different lengths.
    """
    values, correct = _check(confidence, is_correct)
    threshold, n_errors, n_accepted = count_accepted(values, ~correct)
    return RiskCoverage(n_accepted / values.size, n_errors / n_accepted, threshold)


def aurc(confidence: ArrayLike, is_correct: ArrayLike, variant: AurcVariant = "tie_aware") -> float:
    """Area under the risk-coverage curve (Geifman & El-Yaniv, 2017), in any of the field's five readings.

    Only "tie_aware" is independent of the order of the data; the others rank equal confidences by their
    position (stable sort). With continuous confidences and many samples all five agree.

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.
        variant: how the area is taken.
            "tie_aware": trapezoid rule over one point per distinct threshold, extended to coverage 0 at the
            risk of the highest threshold (FD-Shifts).
            "mean": mean of the N risks at coverages 1/N ... 1 (SURE+, OpenMix, FMFP).
            "trapezoid": trapezoid rule over coverages [1/N, 1], not normalised (SURE+'s "ID AURC").
            "torch_uncertainty": "trapezoid" divided by its width 1 - 1/N; needs two samples.
            "rat": as "trapezoid", but a knot only after removing the first sample of a tie group (RAT).

    Returns:
        The area in [0, 1]; papers often show it times 1000.

    Raises:
        ValueError: empty input, NaN, different lengths, an unknown variant, or one sample for
            "torch_uncertainty".
    """
    require_choice("variant", variant, get_args(AurcVariant))
    values, correct = _check(confidence, is_correct)
    if variant == "tie_aware":
        return _tie_aware_area(risk_coverage(values, correct))
    return _rat_aurc(values, correct) if variant == "rat" else _ranked_aurc(values, correct, variant)


def e_aurc(confidence: ArrayLike, is_correct: ArrayLike, variant: AurcVariant = "tie_aware") -> float:
    """Excess AURC: AURC minus that of a perfect ranking, r + (1 - r) ln(1 - r) (Geifman et al., 2019).

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans; r is the error rate.
        variant: as in `aurc`.

    Raises:
        ValueError: as `aurc`.
    """
    return aurc(confidence, is_correct, variant) - _perfect_area(accuracy(is_correct))


def augrc(confidence: ArrayLike, is_correct: ArrayLike) -> float:
    """Area under the generalised risk-coverage curve (Traub et al., 2024).

    The generalised risk counts accepted errors over all N samples, so it starts at 0 at coverage 0; trapezoid
    rule over one point per distinct threshold (FD-Shifts).

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.

    Raises:
        ValueError: empty input, NaN, or different lengths.
    """
    return _generalised_area(risk_coverage(confidence, is_correct))


def coverage_at_risk(confidence: ArrayLike, is_correct: ArrayLike, risk: float) -> float:
    """Largest coverage whose risk is at most `risk`; 0 if no threshold reaches it.

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.
        risk: accepted error rate, in [0, 1].

    Raises:
        ValueError: empty input, NaN, different lengths, or `risk` outside [0, 1].
    """
    require_fraction("risk", risk, zero_allowed=True)
    curve = risk_coverage(confidence, is_correct)
    return float(np.max(curve.coverage, where=curve.risk <= risk, initial=0.0))


def risk_at_coverage(confidence: ArrayLike, is_correct: ArrayLike, coverage: float) -> float:
    """Risk at `coverage`, or at the next larger coverage that a threshold can reach.

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans.
        coverage: wanted accepted fraction, in (0, 1].

    Raises:
        ValueError: empty input, NaN, different lengths, or `coverage` outside (0, 1].
    """
    require_fraction("coverage", coverage, zero_allowed=False)
    curve = risk_coverage(confidence, is_correct)
    return float(curve.risk[np.argmax(curve.coverage >= coverage)])


def _tie_aware_area(curve: RiskCoverage) -> float:
    return _trapezoid_from(curve.risk[0], curve.risk, curve.coverage)


def _generalised_area(curve: RiskCoverage) -> float:
    return _trapezoid_from(0.0, curve.risk * curve.coverage, curve.coverage)


def _trapezoid_from(start: float, risk: FloatArray, coverage: FloatArray) -> float:
    """Area under a curve that begins with risk `start` at coverage 0."""
    first = (start + risk[0]) / 2 * coverage[0]
    return float(first + np.trapezoid(risk, coverage))


def _perfect_area(accuracy: float) -> float:
    """AURC of a perfect ranking; x ln(x) tends to 0, so that of an always wrong model is 1."""
    return 1 - accuracy + (accuracy * float(np.log(accuracy)) if accuracy > 0 else 0.0)


def _ranked_aurc(confidence: FloatArray, correct: BoolArray, variant: AurcVariant) -> float:
    """AURC from the risks of the k most confident samples, k = 1 ... N."""
    n = confidence.size
    risk = np.cumsum(~correct[np.argsort(-confidence, kind="stable")]) / np.arange(1, n + 1)
    if variant == "mean":
        return float(risk.mean())
    area = float(np.trapezoid(risk, dx=1 / n))
    if variant == "trapezoid":
        return area
    if n == 1:
        raise ValueError("confidence: got 1 value, wanted at least 2 for variant 'torch_uncertainty'")
    return area / (1 - 1 / n)


def _rat_aurc(confidence: FloatArray, correct: BoolArray) -> float:
    """RAT's AURC: samples leave in ascending confidence; a knot after the first of each tie group."""
    n = confidence.size
    order = np.argsort(confidence, kind="stable")
    ascending, n_errors = confidence[order], np.cumsum(~correct[order])
    is_knot = np.append(True, ascending[1:] != ascending[:-1])[: n - 1]
    n_removed = np.append(0, np.flatnonzero(is_knot) + 1)
    n_errors_removed = np.append(0, n_errors)[n_removed]
    risk = (n_errors[-1] - n_errors_removed) / (n - n_removed)
    # Up to the last sample, which is never removed, the risk of the last knot continues.
    return float(np.trapezoid(np.append(risk, risk[-1]), np.append(n_removed, n - 1) / n))


def _check(confidence: ArrayLike, is_correct: ArrayLike) -> tuple[FloatArray, BoolArray]:
    values, correct = as_scores("confidence", confidence), as_flags("is_correct", is_correct)
    require_same_length(confidence=values, is_correct=correct)
    return values, correct
