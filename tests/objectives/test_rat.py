"""RAT beside mixup, against formulas written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.data.views.mixing import mixup, mixup_targets
from rtk.models.perturb import random_start
from rtk.objectives import active_terms
from rtk.objectives.objective import compute_losses

EPS, CLASSES = 0.02, 5


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(27, 16), nn.Tanh(), nn.Linear(16, CLASSES)).double()


@pytest.fixture
def batch():
    """Clean images, labels, partners, their labels, and lambda."""
    generator = torch.Generator().manual_seed(1)
    x, partners = torch.rand(2, 12, 3, 3, 3, generator=generator, dtype=torch.float64)
    y, y_partner = torch.randint(CLASSES, (2, 12), generator=generator)
    return x, y, partners, y_partner, torch.rand(12, generator=generator, dtype=torch.float64)


def views(batch) -> dict[str, View]:
    x, y, partners, y_partner, lam = batch
    mixed = View(mixup(x, partners, lam), mixup_targets(y, y_partner, lam, CLASSES).double())
    return {"clean": View(x, y), "mixed": mixed}


def terms(weights: dict[str, float], **rat):
    tree = {name: {"weight": weight} for name, weight in weights.items()}
    tree["rat"] = {"weight": 1.0, "eps": EPS, **rat}
    return active_terms(build_config({"data": {"train": "unused"}, "objective": tree}).objective)


def found(net, batch, active) -> tuple[dict[str, float], torch.Tensor]:
    """Losses by term, and the gradient of their sum."""
    net.zero_grad()
    losses = {}
    for together in compute_losses(net, views(batch), active):
        torch.stack([loss.mean() for _, loss in together]).sum().backward()
        losses |= {term.name: loss.mean().item() for term, loss in together}
    return losses, torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


def formula(net, batch, gradient: str, mode: str, clip: bool = True) -> tuple[dict[str, float], torch.Tensor]:
    """lambda CE(z(x~), y) + (1 - lambda) CE(z(x~), y') + CE(z(x + eps s sign g), y), differentiated by x."""
    x, y, partners, y_partner, lam = batch
    x = x.clone().requires_grad_(True)
    weight = lam.view(-1, 1, 1, 1)
    logits = net(weight * x + (1 - weight) * partners)
    of_label, of_partner = (cross_entropy(logits, t, reduction="none") for t in (y, y_partner))
    mixed = (lam * of_label + (1 - lam) * of_partner).mean()
    clean = net(x)
    attacked = mixed if gradient == "mixed" else cross_entropy(clean, y)
    (g,) = torch.autograd.grad(attacked, x, retain_graph=True)
    side = {"rat": torch.where(clean.argmax(1) == y, 1.0, -1.0), "at": torch.ones(12)}
    side["reverse_at"] = -side["at"]
    moved = x + EPS * side[mode].double().view(-1, 1, 1, 1) * g.sign()
    adversarial = cross_entropy(net((moved.clamp(0, 1) if clip else moved).detach()), y)
    gradients = torch.autograd.grad(mixed + adversarial, list(net.parameters()))
    losses = {"regmixup": mixed.item(), "rat": adversarial.item()}
    return losses, torch.cat([part.flatten() for part in gradients])


@pytest.mark.parametrize("mode", ["rat", "at", "reverse_at"])
@pytest.mark.parametrize("gradient", ["mixed", "clean"])
def test_mixup_in_place_of_the_clean_loss(net, batch, gradient, mode):
    active = terms({"cross_entropy": 0.0, "regmixup": 1.0}, gradient=gradient, mode=mode)
    (losses, got), (wanted_losses, wanted) = (
        found(net, batch, active),
        formula(net, batch, gradient, mode),
    )
    assert losses == pytest.approx(wanted_losses, abs=1e-12)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_published_step_leaves_the_range_of_pixels(net, batch):
    active = terms({"cross_entropy": 0.0, "regmixup": 1.0}, gradient="mixed", clip=False)
    losses, _ = found(net, batch, active)
    assert losses == pytest.approx(formula(net, batch, "mixed", "rat", clip=False)[0], abs=1e-12)
    assert losses != pytest.approx(formula(net, batch, "mixed", "rat")[0], abs=1e-12)


def test_without_mixed_images_the_clean_loss_gives_the_gradient(net, batch):
    """As the published code in the epochs without mixup: there it costs no pass more."""
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    (mixed, got), (clean, wanted) = (
        found(net, batch, terms({"cross_entropy": 1.0}, gradient=gradient)) for gradient in ("mixed", "clean")
    )
    assert (mixed, len(passes)) == (clean, 4)
    assert torch.equal(got, wanted)


def test_a_step_of_pgd_is_a_quarter_of_the_radius(net, batch):
    weights = {"cross_entropy": 1.0}
    own, quarter, other = (
        found(net, batch, terms(weights, solver="pgd", steps=3, **step))[0]["rat"]
        for step in ({}, {"step_size": EPS / 4}, {"step_size": EPS / 3})
    )
    assert own == quarter != other


def test_a_random_start_lies_in_the_box_and_in_the_range(batch):
    x = batch[0]
    start = random_start(x, torch.linspace(0.01, 0.5, 12), torch.Generator().manual_seed(0))
    assert start.min() == 0
    assert start.max() == 1
    away = (start - x).abs().flatten(1).amax(1)
    assert (away <= torch.linspace(0.01, 0.5, 12) + 1e-6).all()
    assert (away > 0.5 * torch.linspace(0.01, 0.5, 12)).all()


def test_pgd_from_a_random_start_follows_torchs_seed(net, batch):
    def loss(seed):
        torch.manual_seed(seed)
        active = terms({"cross_entropy": 1.0}, solver="pgd", random_start=True, steps=1)
        return found(net, batch, active)[0]["rat"]

    assert loss(0) == loss(0) != loss(1)
