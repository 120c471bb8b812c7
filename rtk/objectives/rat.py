"""Radius-aware training: the loss at inputs moved towards, or away from, the decision boundary.

RAT (arXiv 2503.14783, equations 11 and 12): loss(x) + loss(x'), with
x' = clip(x + eps * s * sign(grad_x loss(x)), 0, 1) and s = +1 where the clean prediction is right, -1 where
it is wrong. Right predictions are so trained to larger radii and wrong ones to smaller, which makes the
radius tell them apart. The direction always comes from the clean view's loss, also beside mixup.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rtk.config.sections import PositiveFloat, PositiveInt
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import CLEAN, CleanPass, Term

if TYPE_CHECKING:
    from torch import Tensor, nn


class RatConfig(SmoothedConfig):
    """Cross-entropy of radius-aware perturbed inputs, beside the clean term (RAT, arXiv 2503.14783)."""

    beside: ClassVar[tuple[str, ...]] = ("cross_entropy",)

    eps: PositiveFloat = Field(0.001, description="largest change of a pixel value, images in [0, 1]")
    mode: Literal["rat", "at", "reverse_at"] = Field(
        "rat",
        description="rat: harder where right, easier where wrong; at: always harder; reverse_at: easier",
    )
    solver: Literal["fgsm", "pgd"] = Field("fgsm", description="one signed step, or several projected ones")
    steps: PositiveInt = Field(7, description="steps of pgd")
    step_size: PositiveFloat = Field(0.0003, description="size of a pgd step")


def attacked_images(model: nn.Module, clean: CleanPass, config: RatConfig) -> Tensor:
    """Perturbed images (N, 3, H, W) of RAT, of adversarial training (`at`) or of its reverse.

    FGSM reuses the gradient that the clean backward pass left on the images, so that a step costs two
    forward and two backward passes, not three.
    """
    from rtk.models.perturb import fgsm, pgd

    direction = attack_direction(clean.logits, clean.targets, config.mode)
    if config.solver == "pgd":
        return pgd(
            model, clean.images.detach(), clean.targets, config.eps, config.step_size, config.steps, direction
        )
    assert clean.images.grad is not None, "the clean term is back-propagated before RAT's view is made"
    return fgsm(clean.images.detach(), clean.images.grad, config.eps, direction)


def attack_direction(logits: Tensor, targets: Tensor, mode: str) -> Tensor:
    """s (N,): +1 climbs the loss, -1 descends it; `rat` by whether the prediction is right."""
    import torch

    if mode == "rat":
        right = logits.argmax(1) == targets
        return torch.where(right, 1.0, -1.0)
    return torch.full((len(targets),), 1.0 if mode == "at" else -1.0, device=logits.device)


RAT = Term("rat", RatConfig, CLEAN, view_cross_entropy, attack=attacked_images)
