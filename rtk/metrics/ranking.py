"""How well a score separates two groups: AUROC, AUPR, FPR at a fixed TPR.

The three primitives share one convention: `scores` (N,), larger = more positive. The field's conventions for
OOD detection and misclassification detection are in `ood_detection` and `misclassification_detection`.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import (
    BoolArray,
    FloatArray,
    as_flags,
    as_scores,
    require_both_classes,
    require_choice,
    require_fraction,
    require_same_length,
)
from rtk.metrics._thresholds import count_accepted

AuprMethod = Literal["trapezoid", "average_precision"]


def auroc(scores: ArrayLike, is_positive: ArrayLike) -> float:
    """Area under the ROC curve: P(positive scores above negative), ties counting one half.

    Args:
        scores: (N,), larger = more positive.
        is_positive: (N,) booleans, at least one of each.

    Raises:
        ValueError: empty input, NaN, different lengths, or a single class.
    """
    values, positive = _check(scores, is_positive)
    negatives, positives = np.sort(values[~positive]), np.sort(values[positive])
    n_below = np.searchsorted(negatives, positives, side="left")
    n_below_or_tied = np.searchsorted(negatives, positives, side="right")
    # Integers until the division: the result is exact to the last bit.
    return float((n_below.sum() + n_below_or_tied.sum()) / (2 * negatives.size * n_below.size))


def aupr(scores: ArrayLike, is_positive: ArrayLike, method: AuprMethod = "trapezoid") -> float:
    """Area under the precision-recall curve, one point per distinct threshold.

    Args:
        scores: (N,), larger = more positive.
        is_positive: (N,) booleans, at least one of each.
        method: "trapezoid" interpolates linearly and starts at recall 0, precision 1 (OpenOOD, pytorch-ood);
            "average_precision" sums precision times gained recall (torch-uncertainty, FD-Shifts).

    Raises:
        ValueError: empty input, NaN, different lengths, a single class, or an unknown method.
    """
    require_choice("method", method, get_args(AuprMethod))
    values, positive = _check(scores, is_positive)
    _, true_positives, accepted = count_accepted(values, positive)
    recall = np.append(0.0, true_positives / positive.sum())
    precision = np.append(1.0, true_positives / accepted)
    if method == "average_precision":
        return float(np.sum(np.diff(recall) * precision[1:]))
    return float(np.trapezoid(precision, recall))


def fpr_at_tpr(scores: ArrayLike, is_positive: ArrayLike, tpr: float = 0.95) -> float:
    """False positive rate at the strictest threshold whose true positive rate reaches `tpr`.

    Args:
        scores: (N,), larger = more positive.
        is_positive: (N,) booleans, at least one of each.
        tpr: wanted true positive rate, in (0, 1].

    Raises:
        ValueError: empty input, NaN, different lengths, a single class, or `tpr` outside (0, 1].
    """
    require_fraction("tpr", tpr, zero_allowed=False)
    values, positive = _check(scores, is_positive)
    _, true_positives, accepted = count_accepted(values, positive)
    n_positive = positive.sum()
    first = np.argmax(true_positives / n_positive >= tpr)
    return float((accepted[first] - true_positives[first]) / (positive.size - n_positive))


def ood_detection(id_score: ArrayLike, ood_score: ArrayLike) -> dict[str, float]:
    """OOD detection as OpenOOD reports it: OOD is the positive class for AUROC and FPR95.

    Args:
        id_score: (N,) scores of in-distribution images, larger = more in-distribution.
        ood_score: (M,) scores of OOD images.

    Returns:
        `auroc`, `fpr95` (ID images flagged when 95 % of the OOD images are), `aupr_in` (ID positive) and
        `aupr_out` (OOD positive) by the trapezoid rule, `ap_in` and `ap_out` by average precision.

    Raises:
        ValueError: either input is empty or contains NaN.
    """
    id_values, ood_values = as_scores("id_score", id_score), as_scores("ood_score", ood_score)
    scores = np.concatenate([id_values, ood_values])
    is_ood = np.arange(scores.size) >= id_values.size
    return {
        "auroc": auroc(-scores, is_ood),
        "fpr95": fpr_at_tpr(-scores, is_ood),
        "aupr_in": aupr(scores, ~is_ood),
        "aupr_out": aupr(-scores, is_ood),
        "ap_in": aupr(scores, ~is_ood, "average_precision"),
        "ap_out": aupr(-scores, is_ood, "average_precision"),
    }


def misclassification_detection(confidence: ArrayLike, is_correct: ArrayLike) -> dict[str, float]:
    """Misclassification detection as RAT reports it: errors are the positive class for AUROC and FPR95.

    Args:
        confidence: (N,), larger = more trustworthy.
        is_correct: (N,) booleans, at least one of each.

    Returns:
        `auroc`, `fpr95` (correct predictions flagged when 95 % of the errors are), `aupr_success` (correct
        positive) and `aupr_error` (errors positive) by the trapezoid rule, `ap_success` and `ap_error` by
        average precision.

    Raises:
        ValueError: empty input, NaN, different lengths, or a model that is always right or always wrong.
    """
    values, correct = as_scores("confidence", confidence), as_flags("is_correct", is_correct)
    require_same_length(confidence=values, is_correct=correct)
    require_both_classes("is_correct", correct)
    return {
        "auroc": auroc(-values, ~correct),
        "fpr95": fpr_at_tpr(-values, ~correct),
        "aupr_success": aupr(values, correct),
        "aupr_error": aupr(-values, ~correct),
        "ap_success": aupr(values, correct, "average_precision"),
        "ap_error": aupr(-values, ~correct, "average_precision"),
    }


def _check(scores: ArrayLike, is_positive: ArrayLike) -> tuple[FloatArray, BoolArray]:
    values, positive = as_scores("scores", scores), as_flags("is_positive", is_positive)
    require_same_length(scores=values, is_positive=positive)
    require_both_classes("is_positive", positive)
    return values, positive
