"""OOD detection and misclassification detection judged together: DS-F1, DS-AURC (SURE+, arXiv 2603.03903).

The double-scoring (DS) rule accepts an image if its OOD score reaches tau_OOD and its confidence tau_ID.
Precision and risk are over everything accepted, OOD images included; recall and coverage over the ID images.
The OOD-only rule is the DS rule with a constant confidence, so `ood_*` and `ds_*` share everything below.

"exact" follows the definition, over all thresholds that make a difference, so it depends on the ranks of the
scores alone; its time grows as N^2. "grid" reproduces the published numbers (SUREPlus `compute_f1_and_aurc`);
its time hardly depends on N.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._acceptance import Block, Images, check_images, count_block, exact_blocks, grid_block
from rtk.metrics._checks import FloatArray, as_scores, require_choice, require_positive_int

Method = Literal["exact", "grid"]

_COVERAGE_BINS = 100  # SUREPlus `aurc_bins`


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
    images = check_images(id_confidence, id_ood_score, id_correct, ood_confidence, ood_ood_score)
    return _best_thresholds(_blocks(images, method), images.n_id).f1


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
    return float(risk.mean() if method == "exact" else np.trapezoid(risk, coverage))


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
    return ds_f1(*_with_constant_confidence(id_ood_score, id_correct, ood_ood_score), method=method)


def ood_aurc(
    id_ood_score: ArrayLike, id_correct: ArrayLike, ood_ood_score: ArrayLike, method: Method = "exact"
) -> float:
    """OOD-AURC: as `ds_aurc` with the OOD threshold alone.

    Args and errors: as `ood_f1`.
    """
    return ds_aurc(*_with_constant_confidence(id_ood_score, id_correct, ood_ood_score), method=method)


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
    return _best_thresholds(exact_blocks(images), images.n_id)


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
    f1 = _f1(count_block(images, tau_ood[::-1], tau_id[::-1]), images.n_id)
    return tau_ood, tau_id, f1[::-1, ::-1]


def _with_constant_confidence(
    id_ood_score: ArrayLike, id_correct: ArrayLike, ood_ood_score: ArrayLike
) -> tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike, ArrayLike]:
    id_ones = np.ones_like(as_scores("id_ood_score", id_ood_score))
    ood_ones = np.ones_like(as_scores("ood_ood_score", ood_ood_score))
    return id_ones, id_ood_score, id_correct, ood_ones, ood_ood_score


def _blocks(images: Images, method: Method) -> Iterable[Block]:
    require_choice("method", method, get_args(Method))
    return exact_blocks(images) if method == "exact" else [grid_block(images)]


def _f1(block: Block, n_id: int) -> FloatArray:
    """F1 (R, C): with precision TP / accepted and recall TP / N it is 2 TP / (accepted + N)."""
    return 2 * block.correct / (block.accepted + n_id)


def _best_thresholds(blocks: Iterable[Block], n_id: int) -> DSThresholds:
    best = DSThresholds(f1=-1.0, tau_ood=np.nan, tau_id=np.nan)
    for block in blocks:
        f1 = _f1(block, n_id)
        i, j = np.unravel_index(np.argmax(f1), f1.shape)
        if f1[i, j] > best.f1:
            best = DSThresholds(float(f1[i, j]), float(block.tau_ood[i]), float(block.tau_id[j]))
    return best


def _lowest_risk(blocks: Iterable[Block], n_id: int) -> FloatArray:
    """Smallest risk (N + 1,) over the thresholds that accept k = 0 ... N ID images; inf where none do."""
    highest_precision = np.full(n_id + 1, -np.inf)
    for block in blocks:
        precision = block.correct / np.maximum(block.accepted, 1)
        np.maximum.at(highest_precision, block.accepted_id.ravel(), precision.ravel())
    return 1 - highest_precision


def _risk_coverage(images: Images, method: Method) -> tuple[FloatArray, FloatArray]:
    lowest_risk = _lowest_risk(_blocks(images, method), images.n_id)
    if method == "exact":
        return np.arange(1, images.n_id + 1) / images.n_id, _filled_from_right(lowest_risk[1:])
    edges = np.linspace(0, 1, _COVERAGE_BINS + 1)
    coverage = np.arange(images.n_id + 1, dtype=np.float32) / np.float32(images.n_id)
    # The bins are open on the right, in float32 as published: full coverage falls into none of them.
    bin_of = np.searchsorted(edges, coverage, side="right") - 1
    binned = np.full(_COVERAGE_BINS + 1, np.inf)
    np.minimum.at(binned, bin_of, lowest_risk)
    binned[-1] = 1.0  # fills the bins to the right of all others
    return (edges[:-1] + edges[1:]) / 2, _filled_from_right(binned)[:-1]


def _filled_from_right(risk: FloatArray) -> FloatArray:
    """Replace each infinite value by the next finite one on its right; the last must be finite."""
    source = np.where(np.isfinite(risk), np.arange(risk.size), risk.size - 1)
    return risk[np.minimum.accumulate(source[::-1])[::-1]]
