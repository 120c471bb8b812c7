"""Radius-aware training: the loss at inputs moved towards, or away from, the decision boundary.

RAT (arXiv 2503.14783, equations 11 and 12): loss(x) + loss(x'), with
x' = clip(x + eps * s * sign(grad_x loss(x)), 0, 1) and s = +1 where the clean prediction is right, -1 where
it is wrong. Right predictions are so trained to larger radii and wrong ones to smaller, which makes the
radius tell them apart. The direction always comes from the clean view's loss, also beside mixup.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtk.models.perturb import fgsm, pgd

if TYPE_CHECKING:
    from rtk.config.objective import RatConfig


@dataclass(frozen=True)
class CleanPass:
    """The clean view after its backward pass: `images` is a leaf that holds its gradient."""

    images: Tensor
    targets: Tensor
    logits: Tensor


def attacked_images(model: nn.Module, clean: CleanPass, config: RatConfig) -> Tensor:
    """Perturbed images (N, 3, H, W) of RAT, of adversarial training (`at`) or of its reverse.

    FGSM reuses the gradient that the clean backward pass left on the images, so that a step costs two
    forward and two backward passes, not three.
    """
    direction = attack_direction(clean.logits, clean.targets, config.mode)
    if config.solver == "pgd":
        return pgd(
            model, clean.images.detach(), clean.targets, config.eps, config.step_size, config.steps, direction
        )
    assert clean.images.grad is not None, "the clean term is back-propagated before RAT's view is made"
    return fgsm(clean.images.detach(), clean.images.grad, config.eps, direction)


def attack_direction(logits: Tensor, targets: Tensor, mode: str) -> Tensor:
    """s (N,): +1 climbs the loss, -1 descends it; `rat` by whether the prediction is right."""
    if mode == "rat":
        right = logits.argmax(1) == targets
        return torch.where(right, 1.0, -1.0)
    return torch.full((len(targets),), 1.0 if mode == "at" else -1.0, device=logits.device)
