"""AdaSCALE: SCALE with a percentile for each image, by how little a small change of it moves its features.

A step on those pixels that hardly matter to the largest logit moves the strongest features of OOD images more
than those of known ones. How much is usual is fitted on held-out images; the rarer, the less is scaled.

Source: Regmi, "AdaSCALE: adaptive scaling for OOD detection", 2025 (arXiv 2503.08023).
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rtk.models.parts import head_weights, watched_features
from rtk.models.perturb import logits_and_gradient
from rtk.scores.gradients import forward
from rtk.scores.hyperparameters import Percentile, PositiveNumber, PositiveShare, Weight, between
from rtk.scores.image_fit import ImagePass, Tensors
from rtk.scores.logits import energy
from rtk.scores.score import Score

Percent = Annotated[float, between(0, 100, "(]")]


class Shifted(NamedTuple):
    """Features (N, D) of images, and of images after the step."""

    before: Tensor
    after: Tensor


def adascale_a(
    model: nn.Module,
    images: Tensor,
    tensors: Tensors,
    *,
    percentile_low: Percentile = 75.0,
    percentile_high: Percentile = 85.0,
    k1: Percent = 5.0,
    k2: Percent = 1.0,
    shift_weight: Weight = 10.0,
    pixels: PositiveShare = 0.05,
    epsilon: PositiveNumber = 0.5,
) -> Tensor:
    """AdaSCALE-A: SCALE, E(f exp(r)), with a percentile that is lower the more a small step moves f.

    r = sum f+ / sum of the largest entries of f+, those above the percentile, which falls from
    `percentile_high` to `percentile_low` with the rank of Q among held-out images; Q = sum of f'+ over the
    k1 % largest entries of f + `shift_weight` times the sum of |f - f'| over the k2 % largest.

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        tensors: of the pass of `ROWS` with the same k1, k2, shift_weight, pixels and epsilon.
        percentile_low: of images whose Q is the largest.
        percentile_high: of images whose Q is the smallest.
        k1: per cent of the features.
        k2: per cent of the features.
        shift_weight: the paper's lambda.
        pixels: o, share of the values of an image that the step moves: those with the least gradient.
        epsilon: size of the step, in standard deviations of a channel where the model normalises.

    Source: Regmi, "AdaSCALE: adaptive scaling for OOD detection", 2025 (arXiv 2503.08023); values as OpenOOD.
    """
    shifted = shifted_features(model, images, pixels, epsilon)
    ranks = _ranks(tensors, _statistic(shifted, k1, k2, shift_weight))
    ratio = _mass_ratio(shifted.before, percentile_low + (1 - ranks) * (percentile_high - percentile_low))
    return energy(_logits(model, shifted.before * ratio.exp()))


def adascale_l(
    model: nn.Module,
    images: Tensor,
    tensors: Tensors,
    *,
    percentile_low: Percentile = 75.0,
    percentile_high: Percentile = 85.0,
    k1: Percent = 5.0,
    k2: Percent = 1.0,
    shift_weight: Weight = 10.0,
    pixels: PositiveShare = 0.05,
    epsilon: PositiveNumber = 0.5,
) -> Tensor:
    """AdaSCALE-L: the logits are scaled in place of the features, log sum_c exp(r^2 (W f + b)_c).

    r and the arguments are those of `adascale_a`.

    Source: Regmi, 2025 (arXiv 2503.08023); values as OpenOOD.
    """
    shifted = shifted_features(model, images, pixels, epsilon)
    ranks = _ranks(tensors, _statistic(shifted, k1, k2, shift_weight))
    ratio = _mass_ratio(shifted.before, percentile_low + (1 - ranks) * (percentile_high - percentile_low))
    return energy(_logits(model, shifted.before) * ratio.square())


def statistic_of_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    fitted: Tensors,
    *,
    k1: Percent = 5.0,
    k2: Percent = 1.0,
    shift_weight: Weight = 10.0,
    pixels: PositiveShare = 0.05,
    epsilon: PositiveNumber = 0.5,
) -> Tensors:
    """Q (N,) of held-out images."""
    return {"statistic": _statistic(shifted_features(model, images, pixels, epsilon), k1, k2, shift_weight)}


def add_statistic(state: Tensors, part: Tensors) -> None:
    """Join the statistics of a batch."""
    known = state.get("statistic", part["statistic"][:0])
    state["statistic"] = torch.cat([known, part["statistic"]])


def sorted_statistic(state: Tensors) -> Tensors:
    """`statistic` (M,) of all held-out images, ascending."""
    return {"statistic": state["statistic"].sort().values}


def shifted_features(model: nn.Module, images: Tensor, pixels: float, epsilon: float) -> Shifted:
    """Features before and after a signed step that raises the largest logit, on the values it needs least."""
    # OpenOOD steps on normalised images; here normalisation is the model's first layer.
    scale = getattr(model, "std", images.new_ones(1, 1, 1, 1))
    with watched_features(model) as found:
        _, gradient = logits_and_gradient(model, images, lambda logits: logits.amax(dim=1).sum())
        least = (gradient * scale).abs().flatten(1)
        count = max(1, int(least.shape[1] * pixels))
        places = least.topk(count, dim=1, largest=False).indices
        moved = torch.zeros_like(least).scatter_(1, places, 1.0).view_as(images)
        forward(model, images + epsilon * scale * gradient.sign() * moved)
    return Shifted(*found)


def _statistic(shifted: Shifted, k1: float, k2: float, shift_weight: float) -> Tensor:
    """Q (N,)."""
    before, after = shifted
    order = before.argsort(dim=1, descending=True)
    strongest, moved = (order[:, : max(1, int(before.shape[1] * k / 100))] for k in (k1, k2))
    shift = (before - after).abs().gather(1, moved).sum(dim=1)
    return relu(after).gather(1, strongest).sum(dim=1) + shift_weight * shift


def _ranks(tensors: Tensors, statistic: Tensor) -> Tensor:
    """Share (N,) of the held-out images whose Q is no larger."""
    known = tensors["statistic"].to(statistic)
    return torch.searchsorted(known, statistic, right=True) / len(known)


def _mass_ratio(features: Tensor, percentiles: Tensor) -> Tensor:
    """r (N, 1) for a percentile (N,) each; zero for features without a positive entry."""
    dimensions = features.shape[1]
    kept = (dimensions - (dimensions * percentiles.double() / 100).round().long()).clamp_min(1)
    largest = relu(features).sort(dim=1, descending=True).values.cumsum(dim=1)
    mass = largest.gather(1, kept.unsqueeze(1) - 1)
    return largest[:, -1:] / mass.clamp_min(torch.finfo(mass.dtype).tiny)


def _logits(model: nn.Module, features: Tensor) -> Tensor:
    weight, bias = (part.to(features) for part in head_weights(model))
    return torch.addmm(bias, features, weight.T)


_PASSES = (ImagePass(statistic_of_batch, add_statistic, sorted_statistic, rows="held_out"),)

ROWS = (
    Score("adascale_a", adascale_a, inputs="images", passes=_PASSES),
    Score("adascale_l", adascale_l, inputs="images", passes=_PASSES),
)
