"""OOD detection and misclassification detection judged together: DS-F1, DS-AURC (SURE+, arXiv 2603.03903).

The double-scoring (DS) rule accepts an image if its OOD score reaches tau_OOD and its confidence tau_ID.
Precision and risk are over everything accepted, OOD images included; recall and coverage over the ID images.
The OOD-only rule is the DS rule with one score constant, so `ood_*` and `ds_*` share everything below.

"exact" follows the definition, over all thresholds that make a difference (`_sweep.py`), so it depends on the
ranks of the scores alone; its time grows as N (N + M). "grid" reproduces the published numbers (`grid.py`);
its time hardly depends on N.
"""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._acceptance import Images, accumulate, check_images, histogram
from rtk.metrics._checks import FloatArray, as_scores, require_choice, require_positive_int
from rtk.metrics._sweep import best_f1, lowest_risk
from rtk.metrics.grid import area, binned_risk_coverage, count_images, filled_from_right

Method = Literal["exact", "grid"]


@dataclass(frozen=True)
class DSThresholds:
    """The pair of thresholds with the largest F1: accept if OOD score >= tau_ood and confidence >= tau_id."""

    f1: float
    tau_ood: float
    tau_id: float


def ds_f1(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
    method: Method = "exact",
) -> float:
    """DS-F1: the largest F1 over both thresholds.

    Args:
        id_confidence: (N,) confidence of ID images, larger = more trustworthy.
        id_ood_score: (N,) OOD score of ID images, larger = more in-distribution.
        id_correct: (N,) booleans, whether the prediction is right.
        ood_confidence: (M,) confidence of OOD images.
        ood_ood_score: (M,) OOD score of OOD images.
        method: "exact", or "grid" for the published numbers: 1001 thresholds each for the confidence, which
            must lie in [0, 1], and for the OOD score, min-max scaled over all N + M images.

    Raises:
        ValueError: empty input, NaN, different lengths, an unknown method, or, for "grid", infinite scores or
            confidences outside [0, 1].
    """
    require_choice("method", method, get_args(Method))
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    return best_f1(images)[0] if method == "exact" else float(count_images(images).accepted().f1.max())


def ds_aurc(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
    method: Method = "exact",
) -> float:
    """DS-AURC: the smallest risk reachable at each ID coverage, integrated over coverage.

    "exact" is the mean of the risks at coverages 1/N ... 1. "grid" integrates 100 bins of coverage over their
    centres, 0.005 ... 0.995: a constant risk r gives 0.99 r.

    Args and errors: as `ds_f1`.
    """
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    coverage, risk = _risk_coverage(images, method)
    return float(risk.mean()) if method == "exact" else area(coverage, risk)


def ood_f1(
    id_ood_score: ArrayLike, id_correct: ArrayLike, ood_ood_score: ArrayLike, method: Method = "exact"
) -> float:
    """OOD-F1: as `ds_f1` with the OOD threshold alone.

    Args:
        id_ood_score: (N,) OOD score of ID images, larger = more in-distribution.
        id_correct: (N,) booleans, whether the prediction is right.
        ood_ood_score: (M,) OOD score of OOD images.
        method: as in `ds_f1`.

    Raises:
        ValueError: empty input, NaN, different lengths, an unknown method, or infinite scores for "grid".
    """
    return ds_f1(*_with_a_constant(id_ood_score, id_correct, ood_ood_score, method), method=method)


def ood_aurc(
    id_ood_score: ArrayLike, id_correct: ArrayLike, ood_ood_score: ArrayLike, method: Method = "exact"
) -> float:
    """OOD-AURC: as `ds_aurc` with the OOD threshold alone.

    Args and errors: as `ood_f1`.
    """
    return ds_aurc(*_with_a_constant(id_ood_score, id_correct, ood_ood_score, method), method=method)


def joint_metrics(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
    method: Method = "exact",
) -> dict[str, float]:
    """All four: `ds_f1`, `ds_aurc`, `ood_f1` and `ood_aurc`; "grid" counts the images once for them.

    Args and errors: as `ds_f1`.
    """
    five = (id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    if method == "grid":
        return asdict(count_images(check_images(*five)).result())
    three = (id_ood_score, id_correct, ood_ood_score)
    both = {"ds_f1": ds_f1(*five, method=method), "ds_aurc": ds_aurc(*five, method=method)}
    return both | {"ood_f1": ood_f1(*three, method=method), "ood_aurc": ood_aurc(*three, method=method)}


def ds_best_thresholds(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
) -> DSThresholds:
    """The thresholds that reach the exact DS-F1; among equals the largest tau_ood, then the largest tau_id.

    Args and errors: as `ds_f1`.
    """
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    return DSThresholds(*best_f1(images))


def ds_risk_coverage(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
    method: Method = "exact",
) -> tuple[FloatArray, FloatArray]:
    """The curve under which DS-AURC is the area.

    A coverage that no pair of thresholds reaches has the risk of the next larger one that is reached.

    Args and errors: as `ds_f1`.

    Returns:
        coverage and smallest risk: (N,) at 1/N ... 1 for "exact", (100,) at the bin centres for "grid".
    """
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    return _risk_coverage(images, method)


def ds_f1_surface(
    id_confidence: ArrayLike,
    id_ood_score: ArrayLike,
    id_correct: ArrayLike,
    ood_confidence: ArrayLike,
    ood_ood_score: ArrayLike,
    bins: int = 100,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """F1 on a grid of thresholds, for plotting.

    Args and errors: as `ds_f1`, and ValueError for infinite scores or `bins` below 1.
        bins: thresholds per axis, B.

    Returns:
        tau_ood (B,) and tau_id (B,), evenly spaced from the smallest to the largest score of all images, and
        f1 (B, B) with f1[i, j] at tau_ood[i], tau_id[j].
    """
    require_positive_int("bins", bins)
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    tau_ood = np.linspace(*images.ood_score_range(), bins)
    tau_id = np.linspace(*images.confidence_range(), bins)
    id_scores, correct = (images.id_ood_score, images.id_confidence), images.id_correct
    accepted = accumulate(
        histogram(id_scores[0][correct], id_scores[1][correct], tau_ood, tau_id),
        histogram(*id_scores, tau_ood, tau_id),
        histogram(images.ood_ood_score, images.ood_confidence, tau_ood, tau_id),
    )
    return tau_ood, tau_id, accepted.f1


def _with_a_constant(
    id_ood_score: ArrayLike, id_correct: ArrayLike, ood_ood_score: ArrayLike, method: Method
) -> tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike, ArrayLike]:
    id_score, ood_score = as_scores("id_ood_score", id_ood_score), as_scores("ood_ood_score", ood_ood_score)
    id_ones, ood_ones = np.ones_like(id_score), np.ones_like(ood_score)
    if method == "grid":
        return id_ones, id_score, id_correct, ood_ones, ood_score
    # To the exact method the two scores are alike, and one value of tau_OOD makes for one row.
    return id_score, id_ones, id_correct, ood_score, ood_ones


def _risk_coverage(images: Images, method: Method) -> tuple[FloatArray, FloatArray]:
    require_choice("method", method, get_args(Method))
    if method == "grid":
        return binned_risk_coverage(count_images(images).accepted())
    return np.arange(1, images.n_id + 1) / images.n_id, filled_from_right(lowest_risk(images))
