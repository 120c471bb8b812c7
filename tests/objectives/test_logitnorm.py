"""LogitNorm against recorded values, and in every term that is a cross-entropy."""

import numpy as np
import pytest
import torch

from rtk.data.views.maker import View
from rtk.objectives import TERMS
from rtk.objectives.cross_entropy import SmoothedConfig, normalised_logits, soft_cross_entropy

CROSS_ENTROPIES = [name for name, term in TERMS.items() if issubclass(term.block, SmoothedConfig)]


def test_terms_that_can_take_it():
    mixes = {"regmixup", "regpixmix", "cutmix", "openmix", "mixoe"}
    assert {"cross_entropy", "rat", *mixes} <= {*CROSS_ENTROPIES}


@pytest.mark.parametrize("tau", [0.04, 1.0])
def test_loss_and_gradient_equal_the_recorded_ones(golden, tau):
    data = golden("losses_more")
    logits = torch.from_numpy(data["logitnorm__logits"]).requires_grad_()
    view = View(torch.empty(0), torch.from_numpy(data["logitnorm__y"]))
    block = TERMS["cross_entropy"].block(logit_norm=tau)
    losses = TERMS["cross_entropy"].loss(logits, view, block, None)
    (gradient,) = torch.autograd.grad(losses.mean(), logits)
    for found, name in (
        (losses.detach(), "own__logitnorm_per_sample"),
        (losses.mean().item(), "openood__logitnorm_loss"),
        (gradient, "openood__logitnorm_grad_logits"),
    ):
        np.testing.assert_allclose(found, data[f"{name}__tau{tau}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_every_cross_entropy_takes_it_with_soft_targets_too(name):
    """The gradient against the direct formula: J^T (softmax(u) - t), u = z / ((||z|| + 1e-7) tau)."""
    torch.manual_seed(0)
    z, targets = torch.randn(5, 4).double().requires_grad_(), torch.rand(5, 4).double().softmax(1)
    term, tau = TERMS[name], 0.5
    losses = term.loss(z, View(torch.empty(0), targets), term.block(logit_norm=tau), None)
    length = z.norm(dim=1, keepdim=True)
    u = z / ((length + 1e-7) * tau)
    torch.testing.assert_close(losses, -(targets * u.log_softmax(1)).sum(1))
    r = u.softmax(1) - targets
    direct = (r - z * (z * r).sum(1, keepdim=True) / (length * (length + 1e-7))) / ((length + 1e-7) * tau)
    torch.testing.assert_close(torch.autograd.grad(losses.sum(), z)[0], direct.detach())
    raw = term.loss(z, View(torch.empty(0), targets), term.block(), None)
    torch.testing.assert_close(raw, soft_cross_entropy(z, targets))


def test_logits_of_no_length_have_a_loss_and_a_gradient():
    z = torch.zeros(2, 3, requires_grad=True)
    normalised_logits(z, 0.04).sum().backward()
    assert z.grad.isfinite().all()
