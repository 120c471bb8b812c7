"""Sharpness-aware steps around torch's optimisers, under its schedules, against the steps written out."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedules

from rtk.optim import SharpnessAware
from tests.optim.sharp_cases import BASES, LMBDA, RHO, SIGMA, STEPS, VARIANTS, advance


def in_sequence(optimizer):
    parts = [schedules.LinearLR(optimizer, total_iters=2), schedules.ExponentialLR(optimizer, 0.5)]
    return schedules.SequentialLR(optimizer, parts, milestones=[2])


def one_cycle(optimizer):
    """With momentum's cycle where the base has one: it is looked up in `defaults`."""
    cycle = bool({"momentum", "betas"} & optimizer.defaults.keys())
    return schedules.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS, cycle_momentum=cycle)


SCHEDULES = {
    "step": partial(schedules.StepLR, step_size=2, gamma=0.5),
    "multi_step": partial(schedules.MultiStepLR, milestones=[1, 3], gamma=0.5),
    "exponential": partial(schedules.ExponentialLR, gamma=0.7),
    "cosine": partial(schedules.CosineAnnealingLR, T_max=STEPS),
    "restarts": partial(schedules.CosineAnnealingWarmRestarts, T_0=2),
    "linear": partial(schedules.LinearLR, total_iters=4),
    "constant": partial(schedules.ConstantLR, total_iters=3),
    "polynomial": partial(schedules.PolynomialLR, total_iters=STEPS),
    "lambda": partial(schedules.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "multiplicative": partial(schedules.MultiplicativeLR, lr_lambda=lambda epoch: 0.8),
    "cyclic": partial(schedules.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=2, cycle_momentum=False),
    "one_cycle": one_cycle,
    "plateau": partial(schedules.ReduceLROnPlateau, patience=0, threshold=10.0),
    "sequence": in_sequence,
    "chained": lambda optimizer: schedules.ChainedScheduler(
        [schedules.ConstantLR(optimizer, total_iters=2), schedules.ExponentialLR(optimizer, 0.9)]
    ),
}

INPUTS = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def line():
    """Parameters of a line: the cheapest model with two groups."""
    start = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
    return nn.Parameter(start[:3].clone()), nn.Parameter(start[3:].clone())


def groups_of_line(weight, bias):
    return [{"params": [weight]}, {"params": [bias], "lr": 0.03}]


def loss_of_line(parameters, step):
    weight, bias = parameters
    return (INPUTS[step] @ weight + bias).square().mean()


def backward_of_line(parameters, step):
    loss_of_line(parameters, step).backward()


def written_out(variant, base, schedule):
    """Weights and learning rates of a plain torch loop, with the ascent written out by parameter."""
    parameters = line()
    optimizer = BASES[base](groups_of_line(*parameters))
    scheduler = SCHEDULES[schedule](optimizer)
    averages, path, rates = None, [], []
    for step in range(STEPS):
        gradients = directions = torch.autograd.grad(loss_of_line(parameters, step), parameters)
        if variant == "fsam":
            before = averages or gradients
            directions = [g - SIGMA * m * bool(averages) for g, m in zip(gradients, before, strict=True)]
            averages = [LMBDA * m + (1 - LMBDA) * g for g, m in zip(gradients, before, strict=True)]
        scales = [p.detach().abs() ** (variant == "asam") for p in parameters]
        norm = torch.cat([s * d for s, d in zip(scales, directions, strict=True)]).norm()
        moved = [
            (p.detach() + RHO * s**2 * d / norm).requires_grad_()
            for p, s, d in zip(parameters, scales, directions, strict=True)
        ]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss_of_line(moved, step), moved), strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        advance(scheduler)
        path.append(torch.cat([p.detach() for p in parameters]))
        rates.append([group["lr"] for group in optimizer.param_groups])
    return path, rates


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("base", BASES)
def test_every_optimizer_under_every_schedule(base, schedule):
    for variant in VARIANTS:
        wanted, wanted_rates = written_out(variant, base, schedule)
        parameters = line()
        bare = BASES[base](groups_of_line(*parameters))
        optimizer = SharpnessAware(bare, variant, rho=RHO, sigma=SIGMA, lmbda=LMBDA)
        scheduler = SCHEDULES[schedule](optimizer)
        path, rates = [], []
        for step in range(STEPS):
            optimizer.step(partial(backward_of_line, parameters, step))
            advance(scheduler)
            path.append(torch.cat([p.detach() for p in parameters]))
            rates.append([group["lr"] for group in bare.param_groups])
        assert rates == wanted_rates
        torch.testing.assert_close(torch.stack(path), torch.stack(wanted), rtol=0, atol=1e-9)
