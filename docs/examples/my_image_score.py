"""A score that runs the model: does it say the same of an image and of its mirror image?

It is fitted first, to how much predictions of held-out images usually differ. `part` runs in the actors that
predict, on one batch after the other; the parts are merged in the order of the images.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rtk.scores
from rtk.scores import ImagePass, Score


def difference(model: nn.Module, images: Tensor) -> Tensor:
    """Total variation between the predictions for N images and their mirror images, (N,)."""
    with torch.no_grad():
        return (model(images).softmax(1) - model(images.flip(3)).softmax(1)).abs().sum(1) / 2


def part(model: nn.Module, images: Tensor, labels: Tensor, fitted: dict[str, Tensor]) -> dict[str, Tensor]:
    """What one batch adds: a sum and a count."""
    return {"total": difference(model, images).double().sum(), "count": torch.tensor(len(images))}


def add(state: dict[str, Tensor], part: dict[str, Tensor]) -> None:
    """Take a part into the state."""
    for name, value in part.items():
        state[name] = state[name] + value if name in state else value


def finish(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the score takes: here the usual difference."""
    return {"usual": state["total"] / state["count"]}


def flip_agreement(model: nn.Module, images: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the difference, in units of the usual one, (N,).

    Source: an example; the paper that a score comes from stands here.
    """
    return -difference(model, images) / tensors["usual"].to(images).clamp_min(1e-6)


passes = (ImagePass(part, add, finish, rows="held_out"),)
rtk.scores.register(Score("flip_agreement", flip_agreement, inputs="images", passes=passes))
