"""RankFeat: the energy of a network whose feature maps have lost what is largest in them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rtk.models.parts import forward_changed, last_stages
from rtk.scores.hyperparameters import PositiveNumber
from rtk.scores.logits import energy
from rtk.scores.score import Score

Stages = Literal["both", "last", "previous"]


def rankfeat(
    model: nn.Module, images: Tensor, *, stages: Stages = "both", temperature: PositiveNumber = 1.0
) -> Tensor:
    """Energy of the logits of maps without their leading singular component, X - s1 u1 v1ᵀ.

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        stages: whose maps lose it: the "last", the "previous", or "both", the mean of the logits of either.
        temperature: T of the energy.

    Source: Song et al., "RankFeat: rank-1 feature removal for out-of-distribution detection", NeurIPS 2022
    (arXiv 2209.08590).
    """
    last, previous = last_stages(model)
    changed = {"both": (last, previous), "last": (last,), "previous": (previous,)}[stages]
    logits = [forward_changed(model, images, stages_of, without_leading) for stages_of in changed]
    return energy(torch.stack(logits).mean(dim=0), temperature=temperature)


def without_leading(values: Tensor) -> Tensor:
    """Maps (N, C, pixels...) or tokens (N, T, D) without their leading singular component, one by one."""
    # Of a matrix of its smaller side, in float64: cheaper than an SVD, and as exact for the largest value.
    flat = values.flatten(2).double()
    wide = flat if flat.shape[1] <= flat.shape[2] else flat.mT
    leading = torch.linalg.eigh(wide @ wide.mT).eigenvectors[..., -1:]
    rest = wide - leading @ (leading.mT @ wide)
    return (rest if wide is flat else rest.mT).reshape(values.shape).to(values.dtype)


ROWS = (Score("rankfeat", rankfeat, inputs="images", moves_pixels=False),)
