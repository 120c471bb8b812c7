"""Scores that reshape features or weights and take the energy of the new logits: ReAct, VRA, ASH, SCALE, ...

Here f (N, D) are features, W (C, D) and b (C,) the linear head, E(f) = log sum_c exp(W f + b)_c.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rtk.scores.hyperparameters import Percentile, Weight
from rtk.scores.logits import energy
from rtk.scores.moments import column_percentiles, evenly_spread, mean_row, percentile_of
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

AshVariant = Literal["s", "b", "p"]
VraScope = Literal["dimension", "pooled"]
VraBelow = Literal["zero", "threshold"]

# Training images that the percentiles of single dimensions are taken of.
PERCENTILE_ROWS = 100_000


def fit_head(fit_data: FitData) -> dict[str, Tensor]:
    """Keep the head: `weight` (C, D) and `bias` (C,)."""
    return {"weight": fit_data.weight, "bias": fit_data.bias}


def fit_react(fit_data: FitData, *, percentile: Percentile = 90.0) -> dict[str, Tensor]:
    """The head, and `threshold` (): a percentile of all validation activations pooled."""
    return {**fit_head(fit_data), "threshold": percentile_of(fit_data.validation.features, percentile)}


def react(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Energy of the clipped features, E(min(f, threshold)).

    Source: Sun et al., "ReAct: out-of-distribution detection with rectified activations", NeurIPS 2021 (arXiv
    2111.12797).
    """
    features = predictions.features
    return head_energy(features.minimum(tensors["threshold"].to(features)), tensors)


def fit_vra(
    fit_data: FitData,
    *,
    percentile_low: Percentile = 60.0,
    percentile_high: Percentile = 95.0,
    scope: VraScope = "dimension",
) -> dict[str, Tensor]:
    """The head, and where ordinary activations begin and end.

    Args:
        fit_data: its training or validation images and its head are used.
        percentile_low: of activations, where the ordinary begins.
        percentile_high: where it ends.
        scope: "dimension", of each dimension in at most 100,000 training images (the authors' code), or
            "pooled", of all activations of the validation images (OpenOOD).

    Returns:
        of `fit_head`; and `low` and `high`, (D,) or ().
    """
    percentiles = (percentile_low, percentile_high)
    if scope == "pooled":
        found = [percentile_of(fit_data.validation.features, each) for each in percentiles]
    else:
        rows = evenly_spread(fit_data.train.features, PERCENTILE_ROWS)
        found = list(column_percentiles(rows, percentiles))
    return {**fit_head(fit_data), "low": found[0], "high": found[1]}


def vra(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    below: VraBelow = "zero",
    shift: Weight = 0.0,
) -> Tensor:
    """Energy of features that are zero below `low`, `high` above `high`, and raised by a constant between.

    Args:
        predictions: N images.
        tensors: of `fit_vra`.
        below: what activations below `low` become: "zero" (the paper), or "threshold", `low` (OpenOOD).
        shift: what is added to those between: VRA+ where it is not 0.

    Source: Xu et al., "VRA: variational rectified activation for out-of-distribution detection", NeurIPS
    2023 (arXiv 2302.11716).
    """
    features = predictions.features
    low, high = tensors["low"].to(features), tensors["high"].to(features)
    kept = torch.where(features > high, high, features + shift)
    kept = torch.where(features < low, low if below == "threshold" else 0, kept)
    return head_energy(kept, tensors)


def ash(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    variant: AshVariant = "s",
    percentile: Percentile = 90.0,
) -> Tensor:
    """Energy of pruned features, for non-negative features; k = D - round(D percentile / 100) entries stay.

    Args:
        predictions: N images.
        tensors: of `fit_head`.
        variant: what the entries that stay become: "s" times exp(sum f / sum kept), "b" all sum f / k, "p"
            as they are. OpenOOD's network uses "b".
        percentile: part of the entries that is set to zero.

    Source: Djurisic et al., "Extremely simple activation shaping for out-of-distribution detection", ICLR
    2023 (arXiv 2209.09858).
    """
    features = predictions.features
    largest, places = features.topk(_num_kept(features, percentile), dim=1)
    if variant == "b":
        kept = (features.sum(dim=1, keepdim=True) / largest.shape[1]).expand_as(largest)
    elif variant == "s":
        kept = largest * _mass_ratio(features, largest).exp()
    else:
        kept = largest
    return head_energy(torch.zeros_like(features).scatter(1, places, kept), tensors)


def scale(predictions: Predictions, tensors: dict[str, Tensor], *, percentile: Percentile = 85.0) -> Tensor:
    """ASH-S without the pruning: E(f exp(sum f / sum of the k largest)).

    Source: Xu et al., "Scaling for training time and post-hoc out-of-distribution detection enhancement",
    ICLR 2024 (arXiv 2310.00227).
    """
    features = predictions.features
    largest = features.topk(_num_kept(features, percentile), dim=1).values
    return head_energy(features * _mass_ratio(features, largest).exp(), tensors)


def fit_dice(fit_data: FitData, *, percentile: Percentile = 90.0) -> dict[str, Tensor]:
    """The head with the weights zeroed whose mean contribution is not above a percentile of all.

    Args:
        fit_data: its training images and head are used.
        percentile: part of the weights that is set to zero.
    """
    contribution = fit_data.weight.double() * mean_row(fit_data.train.features)
    kept = contribution > percentile_of(contribution, percentile)
    return {"weight": fit_data.weight * kept, "bias": fit_data.bias}


def dice(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Energy of the sparse head, E with only the most contributing weights.

    Source: Sun & Li, "DICE: leveraging sparsification for out-of-distribution detection", ECCV 2022 (arXiv
    2111.09805).
    """
    return head_energy(predictions.features, tensors)


def head_energy(features: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """E (N,) of features (N, D) under the head of `fit_head`, or one made of it."""
    weight, bias = tensors["weight"].to(features), tensors["bias"].to(features)
    return energy(torch.addmm(bias, features, weight.T))


def _num_kept(features: Tensor, percentile: float) -> int:
    return max(1, features.shape[1] - round(features.shape[1] * percentile / 100))


def _mass_ratio(features: Tensor, largest: Tensor) -> Tensor:
    """Sum of all entries over the sum of the largest, (N, 1); zero for an all-zero feature."""
    mass = largest.sum(dim=1, keepdim=True)
    return features.sum(dim=1, keepdim=True) / mass.clamp_min(torch.finfo(mass.dtype).tiny)


_PERCENTILES = {"percentile": (65, 70, 75, 80, 85, 90, 95)}
_VRA_PERCENTILES = {"percentile_high": (85, 90, 95, 99), "percentile_low": (1, 5, 10, 15)}

ROWS = (
    Score("react", react, fit_react, "features", search={"percentile": (85, 90, 95, 99)}),
    Score("vra", vra, fit_vra, "features", search=_VRA_PERCENTILES),
    Score("ash", ash, fit_head, "features", search=_PERCENTILES),
    Score("scale", scale, fit_head, "features", search=_PERCENTILES),
    Score("dice", dice, fit_dice, "features", search={"percentile": (10, 30, 50, 70, 90)}),
)
