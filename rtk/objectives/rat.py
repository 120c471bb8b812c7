"""Radius-aware training: the loss at inputs moved towards, or away from, the decision boundary.

RAT (arXiv 2503.14783, equations 11 and 12): loss(x) + loss(x'), with
x' = clip(x + eps * s * sign(grad_x loss(x)), 0, 1) and s = +1 where the clean prediction is right, -1 where
it is wrong. Right predictions are so trained to larger radii and wrong ones to smaller, which makes the
radius tell them apart. Its authors' code trains with mixup in place of the clean loss, and takes the
gradient of that: `gradient: mixed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rtk.config.sections import PositiveFloat, PositiveInt
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.regmixup import MIXED
from rtk.objectives.term import CLEAN, CleanPass, Term, ViewKind

if TYPE_CHECKING:
    from torch import Tensor, nn


class RatConfig(SmoothedConfig):
    """Cross-entropy of radius-aware perturbed inputs, beside clean ones or mixup (RAT, arXiv 2503.14783)."""

    beside: ClassVar[tuple[str, ...]] = ("cross_entropy", "regmixup")

    eps: PositiveFloat = Field(0.001, description="largest change of a pixel value, images in [0, 1]")
    mode: Literal["rat", "at", "reverse_at"] = Field(
        "rat",
        description="rat: harder where right, easier where wrong; at: always harder; reverse_at: easier",
    )
    gradient: Literal["clean", "mixed"] = Field(
        "clean",
        description="loss that fgsm climbs: of the clean image (equation 11; a pass of its own where "
        "cross_entropy is off), or of the image mixed by regmixup (published code) while that is on",
    )
    clip: bool = Field(
        True, description="fgsm keeps pixels in [0, 1], as pgd does; false: it does not (published code)"
    )
    solver: Literal["fgsm", "pgd"] = Field("fgsm", description="one signed step, or several projected ones")
    steps: PositiveInt = Field(7, description="steps of pgd")
    step_size: PositiveFloat | None = Field(None, description="size of a pgd step; null: eps / 4")
    random_start: bool = Field(
        False,
        description="pgd starts anywhere within eps of the image (Madry et al. 2018), drawn as dropout is",
    )


def attacked_images(model: nn.Module, clean: CleanPass, config: RatConfig) -> Tensor:
    """Perturbed images (N, 3, H, W) of RAT, of adversarial training (`at`) or of its reverse.

    FGSM reuses the gradient that a backward pass left on the images, so that a step costs two forward and two
    backward passes, not three.
    """
    from rtk.models.perturb import fgsm, pgd, random_start

    direction = attack_direction(clean.logits, clean.targets, config.mode)
    images = clean.images.detach()
    if config.solver == "pgd":
        step_size = config.eps / 4 if config.step_size is None else config.step_size
        start = random_start(images, config.eps) if config.random_start else None
        return pgd(model, images, clean.targets, config.eps, step_size, config.steps, direction, start=start)
    assert clean.images.grad is not None, "its source is back-propagated before RAT's view is made"
    return fgsm(images, clean.images.grad, config.eps, direction, config.clip)


def attack_direction(logits: Tensor, targets: Tensor, mode: str) -> Tensor:
    """s (N,): +1 climbs the loss, -1 descends it; `rat` by whether the prediction is right."""
    import torch

    if mode == "rat":
        right = logits.argmax(1) == targets
        return torch.where(right, 1.0, -1.0)
    return torch.full((len(targets),), 1.0 if mode == "at" else -1.0, device=logits.device)


def _gradient_of(config: RatConfig) -> tuple[ViewKind, ...]:
    """While there are no mixed images, the published code takes the clean ones."""
    return (MIXED, CLEAN) if config.gradient == "mixed" and config.solver == "fgsm" else (CLEAN,)


RAT = Term("rat", RatConfig, CLEAN, view_cross_entropy, attacked_images, gradient_of=_gradient_of)
