"""SIRC: a softmax score, lowered where a feature statistic is unlike that of known images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from rtk.scores.logits import entropy, soft_margin
from rtk.scores.moments import mean_row, row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score
from rtk.scores.subspace import fit_residual, residual_norm

SircConfidence = Literal["msp", "entropy"]
SircFeature = Literal["l1_norm", "residual", "l1_to_mean"]


def fit_sirc(fit_data: FitData, *, feature: SircFeature = "l1_norm") -> dict[str, Tensor]:
    """Where S2 turns suspicious: `a` () = mean - 3 std and `b` () = 1 / std of S2 on the validation split.

    Args:
        fit_data: its validation images are used; for "residual" also its training images and head.
        feature: S2, see `sirc`.

    Returns:
        `a` and `b`; for "residual" also `origin` and `basis`, for "l1_to_mean" also `mean` (D,).
    """
    validation = fit_data.validation
    space: dict[str, Tensor] = {}
    if feature == "residual":
        space = fit_residual(fit_data)
    elif feature == "l1_to_mean":
        space = {"mean": mean_row(validation.features)}
    # SUREPlus takes the statistics of the plain norm for the distance to the mean as well.
    measured: SircFeature = "residual" if feature == "residual" else "l1_norm"
    s2 = torch.cat([_feature_statistic(rows, space, measured) for (rows,) in row_chunks(validation.features)])
    spread = s2.double().std(correction=min(1, len(s2) - 1)).clamp_min(torch.finfo(s2.dtype).eps)
    return {**space, "a": s2.double().mean() - 3 * spread, "b": 1 / spread}


def sirc(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    confidence: SircConfidence = "msp",
    feature: SircFeature = "l1_norm",
) -> Tensor:
    """Softmax information retaining combination, -log(S1max - S1) - log(1 + exp(-b (S2 - a))).

    This is minus the log of the paper's cost, (S1max - S1)(1 + exp(-b (S2 - a))): the ranking is the same,
    and scores of confident images do not tie.

    Args:
        predictions: N images.
        tensors: of `fit_sirc`.
        confidence: S1: "msp" (S1max = 1), or "entropy", minus the entropy of the softmax (S1max = 0).
        feature: S2: "l1_norm" |f|_1; "residual", minus ViM's residual norm (the paper's other choice); or
            "l1_to_mean", the L1 distance to the mean validation feature with the statistics of the L1 norm,
            which SUREPlus's code calls "Res".

    Source: Xia & Bouganis, "Augmenting softmax information for selective classification with
    out-of-distribution data", ACCV 2022 (arXiv 2207.07506).
    """
    s2 = _feature_statistic(predictions.features, tensors, feature)
    penalty = softplus(-tensors["b"].to(s2) * (s2 - tensors["a"].to(s2)))
    return -_log_doubt(predictions.logits, confidence) - penalty


def _log_doubt(logits: Tensor, confidence: SircConfidence) -> Tensor:
    """log(S1max - S1) (N,)."""
    if confidence == "msp":
        return logsigmoid(-soft_margin(logits))
    return (-entropy(logits)).clamp_min(1e-12).log()


def _feature_statistic(features: Tensor, tensors: dict[str, Tensor], feature: SircFeature) -> Tensor:
    """S2 (N,)."""
    if feature == "residual":
        return -residual_norm(features, tensors)
    if feature == "l1_to_mean":
        features = features - tensors["mean"].to(features)
    return features.abs().sum(dim=1)


ROWS = (Score("sirc", sirc, fit_sirc, "features"),)
