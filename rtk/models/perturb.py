"""Small steps on the input: FGSM and PGD, shared by radius-aware training and robust-radius scores.

Images are raw pixels in [0, 1]; normalisation is inside the model. Nothing here changes a model's
parameters, gradients or BatchNorm statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rtk.models.batchnorm import fixed_running_statistics


def fgsm(
    images: Tensor,
    gradient: Tensor,
    radius: float | Tensor,
    direction: Tensor | None = None,
    clip: bool = True,
) -> Tensor:
    """One signed-gradient step: x' = x + radius * s * sign(g) (Goodfellow et al. 2015; RAT, equation 12).

    Args:
        images: (N, 3, H, W) in [0, 1].
        gradient: (N, 3, H, W), of the loss with respect to the images.
        radius: size of the step in pixel units (the largest change of a value), one for all images or (N,).
        direction: s, (N,): +1 climbs the loss, -1 descends it; None climbs everywhere.
        clip: keep x' in [0, 1].

    Returns:
        Perturbed images, detached.
    """
    step = _per_image(radius, images) * gradient.sign() * _per_image(direction, images)
    perturbed = (images + step).detach()
    return perturbed.clamp(0, 1) if clip else perturbed


def pgd(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    radius: float | Tensor,
    step_size: float | Tensor,
    steps: int,
    direction: Tensor | None = None,
    loss: Callable[..., Tensor] = cross_entropy,
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient steps inside the box of half-width `radius` and [0, 1] (Madry et al. 2018).

    Args:
        model: from images to logits; its training mode is kept and its running statistics are left alone.
        images: (N, 3, H, W) in [0, 1].
        targets: labels (N,) or distributions (N, C) of the loss.
        radius: largest change of a value, one for all images or (N,).
        step_size: size of a signed step, one for all images or (N,).
        steps: number of them.
        direction: as in `fgsm`, the same for all steps.
        loss: from logits and targets to a scalar.
        start: (N, 3, H, W) where the steps begin; None: at the images.

    Returns:
        Perturbed images, detached.
    """
    perturbed, reach = (images if start is None else start).detach(), _per_image(radius, images)
    for _ in range(steps):
        gradient = input_gradient(model, perturbed, targets, loss)
        moved = fgsm(perturbed, gradient, step_size, direction, clip=False)
        perturbed = torch.clamp(moved, images - reach, images + reach).clamp(0, 1).detach()
    return perturbed


def random_start(images: Tensor, radius: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Images with uniform noise in [-radius, radius], kept in [0, 1] (Madry et al. 2018).

    Args:
        images: (N, 3, H, W) in [0, 1].
        radius: one for all images or (N,).
        generator: of the noise; None: torch's own.
    """
    noise = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=images.device)
    return (images + (2 * noise - 1) * _per_image(radius, images)).clamp(0, 1)


def input_gradient(
    model: nn.Module, images: Tensor, targets: Tensor, loss: Callable[..., Tensor] = cross_entropy
) -> Tensor:
    """Gradient (N, 3, H, W) of the loss with respect to the images; no parameter receives one."""
    return logits_and_gradient(model, images, lambda logits: loss(logits, targets))[1]


def logits_and_gradient(
    model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits (N, C), and the gradient (N, 3, H, W) of a loss of them; no parameter receives one.

    Args:
        model: as in `pgd`.
        images: (N, 3, H, W) in [0, 1].
        loss: from logits to a scalar.
    """
    leaf = images.detach().requires_grad_(True)
    with torch.enable_grad(), fixed_running_statistics(model):
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(loss(logits), leaf)
    return logits.detach(), gradient


def _per_image(value: float | Tensor | None, images: Tensor) -> float | Tensor:
    """One number as it is (None: 1); one for each image, (N,), in a shape that multiplies images."""
    if isinstance(value, Tensor):
        return value.to(images).view(-1, 1, 1, 1)
    return 1.0 if value is None else value
