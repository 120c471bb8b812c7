"""One update of the weights, and what happens inside it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtk.data.views.maker import View
from rtk.objectives import Term, compute_losses
from rtk.runtime.ranks import mean_over_ranks_, rank
from rtk.runtime.seeding import seed_torch
from rtk.train.engine import backward
from rtk.train.state import TrainState


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite on some rank; the weights are those before the step."""


def train_step(
    state: TrainState,
    views: dict[str, View],
    terms: list[Term],
    step: int,
    seed: int = 0,
    accumulation: int = 1,
    redrawn: dict[str, View] | None = None,
) -> dict[str, float]:
    """One update of the weights: the whole method, top to bottom.

    Args:
        state: live objects.
        views: this rank's share of the batch.
        terms: terms of the loss.
        step: number of the update, from 0.
        seed: seed of dropout and drop path.
        accumulation: micro-batches that the share is cut into, to save memory.
        redrawn: views of the same images for the second pass of SAM; None: the same views.

    Returns:
        Mean loss of every term over all ranks' images, at the weights before the step.

    Raises:
        NonFiniteLossError: on every rank, where a loss of any rank is NaN or infinite.
    """
    noise = (seed, 1, step, rank())
    batches = micro_batches(views, accumulation)
    sharpness = state.sharpness
    if sharpness is None or not sharpness.ascends_at(step):
        losses = back_propagate(state, batches, terms, noise)
    else:
        losses = back_propagate(state, batches, terms, noise, reduce=not state.local_ascent)
        sharpness.ascend()
        if redrawn is not None:
            batches = micro_batches(redrawn, accumulation)
        again = back_propagate(state, batches, terms, noise, first_pass=False)
        losses |= {f"{name} at w + e": loss for name, loss in again.items()}
        sharpness.restore()
    means = finite_means(losses, step)
    state.engine.step()
    mean_over_ranks_(state.buffers)
    if state.average is not None:
        state.average.update()
    return {term.name: means[term.name] for term in terms}


def micro_batches(views: dict[str, View], count: int) -> list[dict[str, View]]:
    """Views cut into `count` parts of the same number of images."""
    parts = {
        name: zip(view.images.chunk(count), view.targets.chunk(count), strict=True)
        for name, view in views.items()
    }
    return [{name: View(*next(part)) for name, part in parts.items()} for _ in range(count)]


def back_propagate(
    state: TrainState,
    batches: list[dict[str, View]],
    terms: list[Term],
    noise: tuple[int, ...],
    first_pass: bool = True,
    reduce: bool = True,
) -> dict[str, Tensor]:
    """Gradients of the weighed sum of all terms; mean loss (a scalar tensor) of every term.

    `noise` seeds dropout and drop path, so that both passes of SAM drop the same units. Without `reduce`
    the gradients stay this rank's own.
    """
    seed_torch(*noise)
    losses: dict[str, Tensor] = {}
    for number, views in enumerate(batches, 1):
        for together in compute_losses(state.engine, views, terms, first_pass, state.concatenate):
            means = {term: per_sample.mean() / len(batches) for term, per_sample in together}
            last = number == len(batches) and terms[-1] in means
            total = torch.stack([term.weight * loss for term, loss in means.items()]).sum()
            backward(state.engine, total, reduce=reduce and last)
            for term, loss in means.items():
                losses[term.name] = losses.get(term.name, 0) + loss.detach()
    return losses


def finite_means(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    """Mean loss of every term over the ranks; one rank's NaN or infinity makes it so on all of them.

    Raises:
        NonFiniteLossError: on every rank, naming the step and the term.
    """
    means = torch.stack([loss.float() for loss in losses.values()])
    mean_over_ranks_([means])
    named = dict(zip(losses, means.tolist(), strict=True))
    for name, value in named.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(f"step {step + 1}: loss term {name!r} is not finite")
    return named
