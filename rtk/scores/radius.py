"""RR-BS: the robust radius by search, the smallest attack radius at which the prediction changes.

RAT's code halves brackets blindly, 24 forward passes for every image. Here the search runs on the margin
between the predicted and the next class, which says how far away the crossing is: it starts at the linear
radius, interpolates, and drops an image as soon as its radius is known to `tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from rtk.models.perturb import fgsm, logits_and_gradient, pgd
from rtk.scores.gradients import LARGEST_RADIUS
from rtk.scores.hyperparameters import PositiveInt, PositiveNumber, between
from rtk.scores.logits import RAT_TEMPERATURES, soft_margin
from rtk.scores.score import Score

Solver = Literal["fgsm", "pgd"]

# From the rows still open and a radius for each (R,) to the margins there (R,), positive if unchanged.
MarginAt = Callable[[Tensor, Tensor], Tensor]

SMALLEST_RADIUS = 1e-6  # below it radii are not told apart, as in RAT's code


def rr_bs(
    model: nn.Module,
    images: Tensor,
    *,
    solver: Solver = "fgsm",
    steps: PositiveInt = 10,
    temperature: PositiveNumber = 1.0,
    clip: bool = True,
    tolerance: Annotated[float, between(0, 1, "()")] = 0.005,
    budget: PositiveInt = 24,
) -> Tensor:
    """RR-BS: the radius at which an attack on the predicted class y changes the prediction, at most 1.

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        solver: "fgsm", one signed step of the whole radius e in a fixed direction, or "pgd", signed steps of
            e / 4 from the image, projected to the box of half-width e.
        steps: of PGD.
        temperature: T of the loss that the attack climbs, that of z / T.
        clip: keep attacked images in [0, 1] (RAT_MisD's `RobustRadiusTester`); False as its
            `NoisePerturbedRateTester`. PGD always does.
        tolerance: width of the final bracket relative to the radius, whose middle is returned.
        budget: largest number of radii tried for an image; RAT's code always tries 24.

    Source: RAT, arXiv 2503.14783 (RR-BS).
    """
    logits, gradient = logits_and_gradient(model, images, lambda z: -soft_margin(z / temperature).sum())
    predicted = logits.argmax(dim=1)

    def margin_at(rows: Tensor, radius: Tensor) -> Tensor:
        if solver == "pgd":
            loss = partial(_doubt, temperature=temperature)
            attacked = pgd(model, images[rows], predicted[rows], radius, radius / 4, steps, loss=loss)
        else:
            attacked = fgsm(images[rows], gradient[rows], radius, clip=clip)
        with torch.no_grad():
            return class_margin(model(attacked), predicted[rows])

    slope = gradient.flatten(1).abs().sum(dim=1)
    return first_crossing(margin_at, class_margin(logits, predicted), slope, tolerance, budget)


def class_margin(logits: Tensor, classes: Tensor) -> Tensor:
    """Logit of a class (N,) minus the largest of the others."""
    own = classes.unsqueeze(1)
    return logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).amax(dim=1)


def first_crossing(
    margin_at: MarginAt, margin: Tensor, slope: Tensor, tolerance: float, budget: int
) -> Tensor:
    """Radius (N,) in (0, 1] at which a margin that starts positive becomes negative; 1 where it does not.

    Args:
        margin_at: margins of some rows at a radius for each; called with fewer rows every time.
        margin: (N,) at radius 0.
        slope: (N,) a first guess of how fast the margins fall.
        tolerance: width of the final bracket relative to the radius.
        budget: largest number of calls.
    """
    low, high = torch.zeros_like(margin), torch.full_like(margin, torch.inf)
    margin_low, margin_high, slope = margin.clone(), torch.zeros_like(margin), slope.clone()
    rows = torch.arange(len(margin), device=margin.device)
    for trial in range(budget):
        bracket = (low[rows], high[rows], margin_low[rows], margin_high[rows])
        radius = _next_radius(*bracket, slope[rows], tolerance, halve=trial >= 6)
        found = margin_at(rows, radius)
        crossed = found < 0
        falling = (bracket[2] - found) / (radius - bracket[0])
        slope[rows] = torch.where(crossed, slope[rows], falling)
        low[rows] = torch.where(crossed, bracket[0], radius)
        margin_low[rows] = torch.where(crossed, bracket[2], found)
        high[rows] = torch.where(crossed, radius, bracket[1])
        margin_high[rows] = torch.where(crossed, found, bracket[3])
        upper = high[rows].clamp_max(LARGEST_RADIUS)
        rows = rows[(upper - low[rows] > tolerance * upper) & (upper > SMALLEST_RADIUS)]
        if len(rows) == 0:
            break
    return (low + torch.where(high.isinf(), low, high)) / 2


def _next_radius(
    low: Tensor,
    high: Tensor,
    margin_low: Tensor,
    margin_high: Tensor,
    slope: Tensor,
    tolerance: float,
    halve: bool,
) -> Tensor:
    """Where to look next: a little beyond the estimated crossing, as seen from the nearer end.

    If the estimate is good to `tolerance` / 2, the two ends then close around it in two trials. Without an
    upper end the line is continued, at most to four times the radius. `halve`: take the geometric middle
    instead, once interpolation has had six trials: the margin is no line then.
    """
    inside = high.isfinite()
    reach = torch.where(inside, high, (4 * low).clamp_min(LARGEST_RADIUS * (low == 0))) - low
    ahead = torch.where(inside, reach * margin_low / (margin_low - margin_high), margin_low / slope)
    # A margin that does not fall gives no estimate: go as far as allowed.
    ahead = torch.where((ahead >= 0) & (ahead <= reach), ahead, reach)
    if halve:
        middle = (low.clamp_min(SMALLEST_RADIUS) * high).sqrt()
        ahead = torch.where(inside, middle - low, ahead)
    beyond = torch.where(inside & (ahead > reach / 2), -1.0, 1.0) * 0.4 * tolerance * (low + ahead)
    radius = torch.where(
        inside, low + (ahead + beyond).clamp(0.01 * reach, 0.99 * reach), low + ahead + beyond
    )
    return radius.clamp(SMALLEST_RADIUS / 4, LARGEST_RADIUS)


def _doubt(logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Minus the soft margin of given classes, summed: climbs as cross-entropy does, but never vanishes."""
    own, logits = classes.unsqueeze(1), logits / temperature
    others = logits.scatter(1, own, -torch.inf).logsumexp(dim=1)
    return (others - logits.gather(1, own).squeeze(1)).sum()


ROWS = (Score("rr_bs", rr_bs, inputs="images", rat_search=RAT_TEMPERATURES),)
