"""Scores of the model itself, by its input gradient: ODIN's input step and RAT's fast robust radius.

Every function takes a model in evaluation mode, from images to logits, and images (N, 3, H, W) in [0, 1], and
returns (N,), larger = more trustworthy. Radii are in pixel units. y is the predicted class throughout.

Directions come from the soft margin m = z_y - log sum_(i != y) exp z_i: the gradient of the cross-entropy
of y is -(1 - p_y) times that of m, so that the signs are the same, but it vanishes where p_y rounds to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from rtk.models.perturb import fgsm, logits_and_gradient
from rtk.scores.hyperparameters import PositiveNumber, PositiveShare, UnitInterval
from rtk.scores.logits import RAT_TEMPERATURES, doctor_alpha, margin, msp, soft_margin
from rtk.scores.score import Score

InputStep = Literal["up", "down"]
FastRadius = Literal["paper", "published", "exp", "smooth"]

# Pixels are in [0, 1]: no larger change of one can be made.
LARGEST_RADIUS = 1.0

# What RAT's code tries; its MSR with a step is ODIN at T = 1.
RAT_STEPS = {
    "epsilon": (0, 5e-5, 1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4, 3.5e-4, 4e-4, 6e-4, 8e-4, 1e-3),
    "step": ("down",),
}


def odin(
    model: nn.Module,
    images: Tensor,
    *,
    temperature: PositiveNumber = 1000.0,
    epsilon: UnitInterval = 0.0014,
    step: InputStep = "up",
) -> Tensor:
    """ODIN: max_c softmax(z / T)_c after a small step of the input that raises it.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        temperature: T, of the step and of the score.
        epsilon: size of the step, in pixel units and not clipped to [0, 1].
        step: "up" the confidence (the paper, OpenOOD), or "down" as RAT_MisD's `NoisePerturbedTester`.

    Source: Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural
    networks", ICLR 2018 (arXiv 1706.02690), eq. 2; epsilon as OpenOOD.
    """
    moved = stepped(model, images, lambda z: soft_margin(z / temperature), epsilon, step)
    return msp(forward(model, moved) / temperature)


def doctor_perturbed(
    model: nn.Module,
    images: Tensor,
    *,
    temperature: PositiveNumber = 1.0,
    epsilon: UnitInterval = 0.00035,
    step: InputStep = "down",
) -> Tensor:
    """DOCTOR's D_alpha after a small step of the input along its own gradient.

    RAT's code takes the logarithm of the score, which is negative, so that it has no figures for this one.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        temperature: T, of the step and of the score.
        epsilon: size of the step, in pixel units and not clipped to [0, 1]; the default is from the middle of
            RAT's grid.
        step: as in `odin`; "down" as RAT's protocol.

    Source: Granese et al., NeurIPS 2021 (arXiv 2106.02395), with the step of RAT_MisD's `NoisePerturb`.
    """
    moved = stepped(model, images, partial(doctor_alpha, temperature=temperature), epsilon, step)
    return doctor_alpha(forward(model, moved), temperature=temperature)


def stepped(
    model: nn.Module, images: Tensor, score: Callable[[Tensor], Tensor], epsilon: float, step: InputStep
) -> Tensor:
    """Images after a signed step that raises a score of the logits, or lowers it."""
    _, gradient = logits_and_gradient(model, images, lambda z: score(z).sum())
    return fgsm(images, gradient, epsilon if step == "up" else -epsilon, clip=False)


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, C) of images."""
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def rr_fast(
    model: nn.Module,
    images: Tensor,
    *,
    step_size: PositiveShare = 0.01,
    temperature: PositiveNumber = 1.0,
    definition: FastRadius = "paper",
) -> Tensor:
    """RR-Fast: the robust radius, were every logit linear along the attack's direction.

    With d = sign(grad CE(z(x) / T, y)) and D_i = (z_i(x + a d) - z_i(x)) / (a T), class i overtakes y at
    q_i = (z_y - z_i) / (T (D_i - D_y)); the score is the least q_i >= 0, at most 1.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        step_size: the paper's alpha, a.
        temperature: T.
        definition: "paper", as above. RAT_MisD's code: "published" (`RobustRadiusFast`) divides only the
            first pass by T, the same at T = 1; "exp" (`RobustRadiusFastExp`) is the margin of the two
            largest logits over the L1 norm of its gradient, "smooth" (`RobustRadiusFastSmooth`) the same
            with the soft margin; these need no second pass. Without a gradient nothing overtakes: 1.

    Source: RAT, arXiv 2503.14783 (RR-Fast; alpha = 0.01).
    """
    if definition in ("exp", "smooth"):
        return _linear_radius(model, images, temperature, smooth=definition == "smooth")
    logits, gradient = logits_and_gradient(model, images, lambda z: soft_margin(z / temperature).sum())
    moved = forward(model, fgsm(images, gradient, -step_size, clip=False))
    before = logits / temperature
    after = moved / temperature if definition == "paper" else moved
    return _first_overtaking(before, (after - before) / step_size)


def _linear_radius(model: nn.Module, images: Tensor, temperature: float, smooth: bool) -> Tensor:
    gap = soft_margin if smooth else margin
    logits, gradient = logits_and_gradient(model, images, lambda z: gap(z / temperature).sum())
    steepness = gradient.flatten(1).abs().sum(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return (gap(logits / temperature) / steepness).clamp(-LARGEST_RADIUS, LARGEST_RADIUS)


def _first_overtaking(logits: Tensor, slopes: Tensor) -> Tensor:
    """Least q > 0 (N,) at which another logit, growing by its slope (N, C), reaches the predicted one."""
    winner = logits.argmax(dim=1, keepdim=True)
    ahead = logits.gather(1, winner) - logits
    closing = slopes - slopes.gather(1, winner)
    radius = torch.where(closing > 0, ahead / closing, torch.inf).scatter(1, winner, torch.inf)
    return radius.amin(dim=1).clamp_max(LARGEST_RADIUS)


ROWS = (
    Score("odin", odin, inputs="images", rat_search=RAT_TEMPERATURES | RAT_STEPS),
    Score("doctor_perturbed", doctor_perturbed, inputs="images", rat_search=RAT_TEMPERATURES | RAT_STEPS),
    Score("rr_fast", rr_fast, inputs="images", rat_search=RAT_TEMPERATURES),
)
