"""The reference of every case: one process, float64, the whole batch, nothing sharded."""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.optim import (
    EfficientSam,
    LookSam,
    MomentumSam,
    SharpnessAware,
    WeightAverage,
    most_risen,
)
from rtk.optim.shards import Fragment, LocalShards
from tests.train.sharded_cases import (
    ALPHA,
    ASCOOD_WEIGHT,
    BATCH,
    CLIP,
    CRL_WEIGHT,
    EPS,
    RANKS,
    RAT_WEIGHT,
    RATE,
    Case,
)
from tests.train.sharded_network import Net, batches, build_base, model_weights, rate, samples


def reference(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and their average after all steps: one process, float64, no sharding."""
    apart = {"stage": 0, "accumulation": 1, "tiny": False, "mutation": "", "precision": "fp32"}
    return _whole(dataclasses.replace(case, **apart))


class NamedShards(LocalShards):
    """Unsharded weights by the names that the engine's have."""

    def __init__(self, base: torch.optim.Optimizer, net: nn.Module) -> None:
        super().__init__(base)
        self.names = {id(parameter): name for name, parameter in net.named_parameters()}

    def fragments(self) -> list[Fragment]:
        pairs = enumerate(self.owners())
        return [Fragment(self.names[id(p)], 0, p.numel(), index, 0) for index, p in pairs]


def sharpness_of(case: Case, base: torch.optim.Optimizer, net: nn.Module) -> SharpnessAware:
    if case.variant == "looksam":
        return LookSam(base, rho=0.3, every=case.every)
    if case.variant == "msam":
        return MomentumSam(base, rho=0.3)
    if case.variant == "esam":
        return EfficientSam(base, rho=0.3, every=case.every, shards=NamedShards(base, net))
    variant = "fsam" if case.variant == "fsam" else "sam"
    adaptive = case.variant == "asam"
    return SharpnessAware(base, variant, rho=0.3, lmbda=0.8, adaptive=adaptive, every=case.every)


@functools.cache
def _whole(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    net = Net(case).double()
    base = build_base(case.base, net)
    sharpness = sharpness_of(case, base, net)
    average = WeightAverage(sharpness.shards, net, RATE)
    others = batches(2 if case.redraw else 1)
    right = torch.zeros(2 * BATCH)
    for step, ((x, y), (x2, y2)) in enumerate(zip(batches(), others, strict=True)):
        base.param_groups[0]["lr"] = base.param_groups[-1]["lr"] = rate(case, step)
        base.zero_grad()
        parts = RANKS if case.sync == "local" else 1
        ascends = case.variant != "none" and sharpness.ascends_at(step)
        gradients = []
        for one, two in zip(
            zip(x.chunk(parts), y.chunk(parts), strict=True),
            zip(x2.chunk(parts), y2.chunk(parts), strict=True),
            strict=True,
        ):
            ranked = (right, step) if case.crl else None
            found = net(one[0].double()).argmax(1) == one[1]
            with sharpness.first_pass():
                loss_of(net, *one, case, ranked).backward()
            if ascends:
                before = plain_losses(net, *two, case, ranked).detach()
                sharpness.ascend()
                chosen = torch.arange(len(two[0]))
                if case.variant == "esam":
                    after = plain_losses(net, *two, case, ranked).detach()
                    chosen = most_risen(before, after, BATCH // 2)
                loss_of(net, two[0][chosen], two[1][chosen], case, ranked, chosen).backward()
                sharpness.restore()
            if case.crl:
                right[samples(step)] += found
            gradients.append(sharpness.shards.gradients())
            base.zero_grad()
        trained = [parameter for group in base.param_groups for parameter in group["params"]]
        for parameter, *of_ranks in zip(trained, *gradients, strict=True):
            parameter.grad = torch.stack(of_ranks).mean(0)
        sharpness.before_step()
        if case.clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        base.step()
        average.update()
    weights = model_weights(net)
    with average.applied():
        return weights, model_weights(net)


def loss_of(
    net: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    case: Case,
    ranked: tuple[torch.Tensor, int] | None = None,
    rows: torch.Tensor | slice = slice(None),
) -> torch.Tensor:
    """Cross-entropy, with RAT that of the attacked images (equations 11 and 12), with ASCOOD its divergence.

    `ranked`: times right of every sample, and the step, for CRL. `rows`: of the batch, which x is.
    """
    x = x.double().requires_grad_(True)
    logits = net(x)
    loss = cross_entropy(logits, y)
    if ranked is not None:
        loss = loss + CRL_WEIGHT * ring(logits, ranked, rows).mean()
    if case.ascood:
        (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x, retain_graph=True)
        least = gradient.flatten(1).abs().sort(1, descending=True).values[:, 2].view(-1, 1, 1, 1)
        made = net((x + ALPHA * gradient * (gradient.abs() >= least)).detach())
        loss = loss - ASCOOD_WEIGHT * (made.log_softmax(1).mean(1) + math.log(3)).mean()
    if not case.rat:
        return loss
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    side = torch.where(logits.argmax(1) == y, 1.0, -1.0).view(-1, 1, 1, 1)
    attacked = (x + EPS * side * gradient.sign()).clamp(0, 1).detach()
    return loss + RAT_WEIGHT * cross_entropy(net(attacked), y)


def ring(logits: torch.Tensor, ranked: tuple[torch.Tensor, int], rows: torch.Tensor | slice) -> torch.Tensor:
    """CRL's losses of images and the next ones, around."""
    right, step = ranked
    share = ((right - right.min()) / max(1, max(1, step // 2) - right.min()))[samples(step)][rows].double()
    confidence, difference = logits.softmax(1).amax(1), share - share.roll(-1)
    return (difference.abs() - difference.sign() * (confidence - confidence.roll(-1))).relu()


@torch.no_grad()
def plain_losses(
    net: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    case: Case,
    ranked: tuple[torch.Tensor, int] | None,
) -> torch.Tensor:
    """Loss of each image by the terms that attack nothing."""
    logits = net(x.double())
    losses = cross_entropy(logits, y, reduction="none")
    return losses if ranked is None else losses + CRL_WEIGHT * ring(logits, ranked, slice(None))
