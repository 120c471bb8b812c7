"""Sharpness-aware steps around those of torch's optimisers that take matrices or sparse gradients only."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import embedding
from torch.optim import Muon, SparseAdam

from rtk.optim import SharpnessAware
from tests.optim.sharp_cases import LMBDA, RHO, SIGMA, STEPS, VARIANTS

ROWS = torch.randint(0, 6, (STEPS, 5), generator=torch.Generator().manual_seed(0))
BASES = {
    "muon": lambda weight: Muon([weight], lr=0.1),
    "sparse_adam": lambda weight: SparseAdam([weight], lr=0.1),
}


def table():
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.randn(6, 3, generator=generator, dtype=torch.float64))


def loss_of(weight, step, sparse=False):
    target = torch.arange(15, dtype=weight.dtype).view(5, 3) / 10
    return (embedding(ROWS[step], weight, sparse=sparse) - target).square().mean()


def written_out(variant, base):
    """Weights of a plain loop, with the ascent written out on dense gradients."""
    weight = table()
    optimizer, average, path = BASES[base](weight), None, []
    for step in range(STEPS):
        gradient = direction = torch.autograd.grad(loss_of(weight, step), weight)[0]
        if variant == "fsam":
            before = gradient if average is None else average
            direction = gradient - SIGMA * before * (average is not None)
            average = LMBDA * before + (1 - LMBDA) * gradient
        scale = weight.detach().abs() ** (variant == "asam")
        moved = weight.detach() + RHO * scale**2 * direction / (scale * direction).norm()
        moved.requires_grad_()
        weight.grad = torch.autograd.grad(loss_of(moved, step, sparse=base == "sparse_adam"), moved)[0]
        optimizer.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("base", BASES)
def test_weights_are_those_of_the_steps_written_out(base, variant):
    weight = table()
    optimizer = SharpnessAware(BASES[base](weight), variant, rho=RHO, sigma=SIGMA, lmbda=LMBDA)
    path = []
    for step in range(STEPS):
        optimizer.step(lambda step=step: loss_of(weight, step, sparse=base == "sparse_adam").backward())
        path.append(weight.detach().clone())
    # Muon orthogonalises in bfloat16.
    torch.testing.assert_close(torch.stack(path), written_out(variant, base), rtol=0, atol=1e-9)
