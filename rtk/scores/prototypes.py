"""Scores that compare an image with its predicted class: SHE (its mean pattern), fDBD (its boundaries)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from rtk.scores.moments import correct_class, group_means, mean_row
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

SheMetric = Literal["inner_product", "cosine", "euclidean"]
FdbdNormalizer = Literal["distance_to_mean", "feature_norm"]


def fit_she(fit_data: FitData) -> dict[str, Tensor]:
    """`patterns` (C, D): mean feature of the correctly classified training images of each class.

    A class with none has the pattern zero.
    """
    train = fit_data.train
    classes = train.width[0]
    patterns, _ = group_means(train.features, correct_class(train), classes + 1)
    return {"patterns": patterns[:classes].to(train.features.dtype)}


def she(
    predictions: Predictions, tensors: dict[str, Tensor], *, metric: SheMetric = "inner_product"
) -> Tensor:
    """Simplified Hopfield energy: similarity of the feature to the pattern of the predicted class, f·s_c.

    Args:
        predictions: N images.
        tensors: of `fit_she`.
        metric: "inner_product" (the paper), "cosine", or "euclidean", minus the distance.

    Source: Zhang et al., "Out-of-distribution detection based on in-distribution data patterns memorization
    with modern Hopfield energy", ICLR 2023.
    """
    features = predictions.features
    pattern = tensors["patterns"].to(features)[predictions.logits.argmax(dim=1)]
    if metric == "cosine":
        return cosine_similarity(features, pattern, dim=1)
    if metric == "euclidean":
        return -torch.linalg.vector_norm(features - pattern, dim=1)
    return (features * pattern).sum(dim=1)


def fit_fdbd(fit_data: FitData) -> dict[str, Tensor]:
    """`weight_gaps` (C, C), distances between weight rows, and `mean` (D,) of the training features.

    A class has no boundary with itself, nor with one whose row is the same: their logits differ by a constant
    that says nothing about an image. An infinite gap takes them out of the sum.
    """
    weight = fit_data.weight.double()
    gaps = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
    rounding = torch.finfo(fit_data.weight.dtype).eps * weight.norm(dim=1)
    gaps[gaps <= rounding.maximum(rounding.unsqueeze(1))] = torch.inf
    dtype = fit_data.train.features.dtype
    return {"weight_gaps": gaps.to(dtype), "mean": mean_row(fit_data.train.features).to(dtype)}


def fdbd(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    normalizer: FdbdNormalizer = "distance_to_mean",
) -> Tensor:
    """Summed distances to the decision boundaries, sum_c (z_p - z_c) / |w_p - w_c|, over a feature scale.

    The paper averages over the classes, the code that its numbers come from sums: the ranking is the same.

    Args:
        predictions: N images.
        tensors: of `fit_fdbd`.
        normalizer: scale of the feature: "distance_to_mean" |f - mean|, or "feature_norm" |f|.

    Source: Liu & Qin, "Fast decision boundary based out-of-distribution detector", ICML 2024 (arXiv
    2312.11536).
    """
    top, winner = predictions.logits.max(dim=1, keepdim=True)
    gaps = tensors["weight_gaps"].to(top)[winner.squeeze(1)]
    distances = ((top - predictions.logits) / gaps).sum(dim=1)
    features = predictions.features
    centred = features - tensors["mean"].to(features) if normalizer == "distance_to_mean" else features
    scale = torch.linalg.vector_norm(centred, dim=1)
    return distances / scale.clamp_min(torch.finfo(scale.dtype).eps)


ROWS = (
    Score("she", she, fit_she, "features"),
    Score("fdbd", fdbd, fit_fdbd, "features", search={"normalizer": ("distance_to_mean", "feature_norm")}),
)
