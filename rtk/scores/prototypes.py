"""Scores that compare an image with its predicted class.

SHE and CADRef with its mean feature, NCI with its weights, fDBD with its boundaries.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, relu

from rtk.scores.hyperparameters import Weight
from rtk.scores.logits import energy, gen, max_logit, msp
from rtk.scores.moments import correct_class, group_means, mean_row, narrowed, row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

SheMetric = Literal["inner_product", "cosine", "euclidean"]
FdbdNormalizer = Literal["distance_to_mean", "feature_norm"]
CadrefLogits = Literal["energy", "max_logit", "msp", "gen", "none"]


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


def fit_nci(fit_data: FitData) -> dict[str, Tensor]:
    """The head's `weight` (C, D), and `mean` (D,) float64 of the training features."""
    return {"weight": fit_data.weight, "mean": mean_row(fit_data.train.features)}


def nci(predictions: Predictions, tensors: dict[str, Tensor], *, alpha: Weight = 0.0001) -> Tensor:
    """How far a feature leans to the weights of its class, w_y·(f - m) / |f - m|, plus alpha |f|_1.

    Args:
        predictions: N images.
        tensors: of `fit_nci`.
        alpha: weight of the feature's length.

    Source: Liu & Qin, "Detecting out-of-distribution through the lens of neural collapse", CVPR 2025 (arXiv
    2311.01479); alpha as OpenOOD.
    """
    features = predictions.features.double()
    centred = features - tensors["mean"]
    own = tensors["weight"].double()[predictions.logits.argmax(dim=1)]
    lean = (own * centred).sum(dim=1) / _floored(torch.linalg.vector_norm(centred, dim=1))
    return narrowed(lean + alpha * features.abs().sum(dim=1), predictions.features)


def fit_cadref(fit_data: FitData, *, confidence: CadrefLogits = "energy") -> dict[str, Tensor]:
    """What is usual for each predicted class.

    Args:
        fit_data: its training images and head are used.
        confidence: see `cadref`.

    Returns:
        `class_means` (C, D) float64 of the training features by predicted class, zero for a class that is
        never predicted; the head's `weight`; and `usual` (), the mean confidence of the training images.
    """
    train = fit_data.train
    predicted = train.logits.argmax(dim=1)
    means, _ = group_means(train.features, predicted, train.width[0])
    parts = [_logit_confidence(rows, confidence) for (rows,) in row_chunks(train.logits)]
    return {"class_means": means, "weight": fit_data.weight, "usual": torch.cat(parts).mean()}


def cadref(
    predictions: Predictions, tensors: dict[str, Tensor], *, confidence: CadrefLogits = "energy"
) -> Tensor:
    """Minus the relative deviation from the mean m_y of the predicted class, parted by what it does to z_y.

    With d = (f - m_y) sign(w_y), e+ and e- the sums of its positive and negative entries over |f|_1, and L
    a confidence of the logits: -(e+ / L(z) + e- / mean L of the training images).

    Args:
        predictions: N images.
        tensors: of `fit_cadref` with the same `confidence`.
        confidence: L: "energy", "max_logit", "msp", or "gen", 1 / sum over the 10 largest probabilities of
            (p (1 - p))^0.1. Or "none": CARef, -|f - m_y|_1 / |f|_1.

    Source: Ling et al., "CADRef: robust out-of-distribution detection via class-aware decoupled relative
    feature leveraging", CVPR 2025 (arXiv 2503.00325).
    """
    predicted, features = predictions.logits.argmax(dim=1), predictions.features.double()
    sign = tensors["weight"].double()[predicted].sign()
    deviation = features - tensors["class_means"][predicted]
    length = _floored(features.abs().sum(dim=1))
    if confidence == "none":
        return narrowed(-deviation.abs().sum(dim=1) / length, predictions.features)
    raising, lowering = (relu(side * deviation * sign).sum(dim=1) / length for side in (1, -1))
    error = raising / _logit_confidence(predictions.logits, confidence) + lowering / tensors["usual"]
    return narrowed(-error, predictions.features)


def _logit_confidence(logits: Tensor, confidence: CadrefLogits) -> Tensor:
    """L (N,) float64, above 0: a model that has no confidence at all in an image has little."""
    wide = logits.double()
    if confidence == "gen":
        return 1 / _floored(-gen(wide, gamma=0.1, m=10))
    measures = {"energy": energy, "max_logit": max_logit, "msp": msp}
    return _floored(measures.get(confidence, msp)(wide))


def _floored(values: Tensor) -> Tensor:
    """What can be divided by."""
    return values.clamp_min(torch.finfo(values.dtype).eps)


ROWS = (
    Score("she", she, fit_she, "features"),
    Score("fdbd", fdbd, fit_fdbd, "features", search={"normalizer": ("distance_to_mean", "feature_norm")}),
    Score("nci", nci, fit_nci, "features", search={"alpha": (0.0001, 0.001, 0.01, 0.1)}),
    Score("cadref", cadref, fit_cadref, "features"),
)
