"""ASCOOD: outliers made of each image, by destroying what speaks for its class.

Regmi, arXiv 2411.10794, with its code in OpenOOD. Pixels that the logit of the right class leans on are
shuffled, or moved along that logit's gradient, and the prediction for what comes of it should be even:
KL(uniform || p), beside the cross-entropy of the images. The features are standardised before the head
(`model.standardise: 0.5`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rtk.config.objective import TermConfig
from rtk.config.sections import PositiveFloat
from rtk.objectives.term import CLEAN, CleanPass, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rtk.data.views.maker import View


class AscoodConfig(TermConfig):
    """KL to the uniform law of outliers made from the images themselves (ASCOOD, arXiv 2411.10794)."""

    labelled: ClassVar[bool] = False

    outliers: Literal["shuffle", "gradient"] = Field(
        "shuffle", description="pixels change places, or values are moved along the gradient"
    )
    share: float = Field(0.1, gt=0, le=1, description="share of the pixels (shuffle) or values that change")
    leading: Literal["signed", "absolute"] = Field(
        "signed",
        description="shuffle: pixels with the largest sum over channels of exp(gradient), as its code, or of "
        "|gradient|, which takes those that speak against the class too",
    )
    alpha: PositiveFloat = Field(
        10.0, description="gradient: factor of the gradient that is added, both of normalised images"
    )


def true_logit_pass(model: nn.Module, view: View) -> CleanPass:
    """A pass in evaluation mode, with the gradient of the right class's logit by the images.

    `model` may have a buffer `std` that its images are divided by: the gradient is by normalised images, as
    in the published code.
    """
    from rtk.models.batchnorm import evaluation_mode
    from rtk.models.perturb import logits_and_gradient

    images = view.images.detach().requires_grad_(True)
    with evaluation_mode(model):
        logits, gradient = logits_and_gradient(
            model, images, lambda z: z.gather(1, view.targets.unsqueeze(1)).sum()
        )
    images.grad = gradient * getattr(model, "std", 1.0)
    return CleanPass(images, view.targets, logits)


def moved_along(images: Tensor, gradient: Tensor, share: float, step: float | Tensor) -> Tensor:
    """Images (n, 3, H, W) with `step` times the gradient added to the values where it is largest.

    Args:
        images: of any scale.
        gradient: (n, 3, H, W).
        share: of all values of an image, those with the largest |gradient|.
        step: factor, one or (1, 3, 1, 1).
    """
    import torch

    chosen = gradient.flatten(1).abs().topk(int(gradient[0].numel() * share)).indices
    change = (gradient * step).flatten(1)
    kept = torch.zeros_like(change).scatter(1, chosen, change.gather(1, chosen))
    return images + kept.view_as(images)


def shuffled(images: Tensor, pixels: Tensor, order: Tensor) -> Tensor:
    """Images (n, 3, H, W) in which place k of some pixels takes the colour of place order[k] of them.

    Args:
        images: of any scale.
        pixels: indices (n, k) of pixels, in reading order.
        order: permutations (n, k).
    """
    flat, places = images.flatten(2), pixels.unsqueeze(1).expand(-1, images.shape[1], -1)
    colours = flat.gather(2, places).gather(2, order.unsqueeze(1).expand_as(places))
    return flat.scatter(2, places, colours).view_as(images)


def leading_pixels(gradient: Tensor, share: float, by: Literal["signed", "absolute"] = "signed") -> Tensor:
    """Indices (n, k) of the pixels that lead by a gradient (n, 3, H, W): see `AscoodConfig.leading`."""
    sizes = gradient.exp() if by == "signed" else gradient.abs()
    summed = sizes.sum(1).flatten(1)
    return summed.topk(int(summed.shape[1] * share)).indices


def made_outliers(model: nn.Module, clean: CleanPass, config: AscoodConfig) -> Tensor:
    """Outliers (n, 3, H, W) made of the images of a pass; permutations are drawn as dropout is."""
    import torch

    gradient, images = clean.images.grad, clean.images.detach()
    assert gradient is not None
    if config.outliers == "gradient":
        return moved_along(images, gradient, config.share, config.alpha * getattr(model, "std", 1.0))
    pixels = leading_pixels(gradient, config.share, config.leading)
    return shuffled(images, pixels, torch.rand(pixels.shape, device=pixels.device).argsort(1))


def uniform_divergence(logits: Tensor, view: View, config: AscoodConfig, state: None) -> Tensor:
    """KL(uniform || softmax) (n,) of logits (n, C): log sum exp z - mean z - log C."""
    return logits.logsumexp(1) - logits.mean(1) - math.log(logits.shape[1])


ASCOOD = Term("ascood", AscoodConfig, CLEAN, uniform_divergence, made_outliers, start=true_logit_pass)
