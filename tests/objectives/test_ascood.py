"""ASCOOD against the values recorded from its authors' code."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config import load_config
from rtk.config.model import ModelConfig
from rtk.data.views.maker import View
from rtk.models import build_model
from rtk.models.heads import LinearHead
from rtk.objectives import TERMS, active_terms
from rtk.objectives.ascood import AscoodConfig, leading_pixels, made_outliers, shuffled, true_logit_pass
from rtk.objectives.objective import compute_losses


class Net(nn.Module):
    """The recorded network."""

    def __init__(self, data):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 10, 3, padding=1), nn.BatchNorm2d(10)
        self.fc = LinearHead(10, 5, standardise=float(data["hp_ascood_sigma"]))
        self.double()
        state = {name: data[f"ascood_net__{name.replace('.', '_')}"] for name in self.state_dict()}
        self.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})

    def forward(self, images):
        return self.fc(self.bn(self.conv(images)).relu().mean((2, 3)))


@pytest.fixture
def recorded(golden):
    data = golden("losses_more")
    images, labels = torch.from_numpy(data["ascood__x"]), torch.from_numpy(data["ascood__y"])
    return data, Net(data).train(), View(images, labels)


def config(data, outliers):
    alpha, share = float(data["ascood__alpha_at_epoch"]), float(data["hp_ascood_p_inv"])
    return AscoodConfig(weight=float(data["hp_ascood_w"]), outliers=outliers, share=share, alpha=alpha)


def test_standardised_features_equal_the_recorded_ones(golden):
    data = golden("losses_more")
    head = LinearHead(10, 5, standardise=float(data["hp_ascood_sigma"])).double()
    features = torch.from_numpy(data["ascood__features"])
    wanted = data["openood__ascood_standardised_features_times_sigma"]
    np.testing.assert_allclose(head.used_features(features), wanted, rtol=0, atol=1e-10)
    weight, bias = head.used_weights()
    torch.testing.assert_close(head(features), head.used_features(features) @ weight.T + bias)


def test_the_gradient_is_taken_in_evaluation_mode_and_changes_nothing(recorded):
    data, net, view = recorded
    before = {name: value.clone() for name, value in net.state_dict().items()}
    clean = true_logit_pass(net, view)
    wanted = data["openood__ascood_input_gradient_true_logit"]
    np.testing.assert_allclose(clean.images.grad, wanted, rtol=0, atol=1e-10)
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_gradient_outliers_equal_the_recorded_ones(recorded):
    data, net, view = recorded
    found = made_outliers(net, true_logit_pass(net, view), config(data, "gradient"))
    np.testing.assert_allclose(found, data["openood__ascood_gradient__outliers"], rtol=0, atol=1e-10)


def test_shuffled_outliers_equal_the_recorded_ones(recorded):
    data, net, view = recorded
    gradient = true_logit_pass(net, view).images.grad
    pixels = leading_pixels(gradient, float(data["hp_ascood_p_inv"]))
    assert np.array_equal(pixels, data["ascood_shuffle__pixel_index_in_order_of_gradient"])
    found = shuffled(view.images, pixels, torch.from_numpy(data["ascood_shuffle__permutation"]))
    np.testing.assert_allclose(found, data["openood__ascood_shuffle__outliers"], rtol=0, atol=1e-10)


def test_pixels_lead_by_their_signed_or_their_absolute_gradient():
    gradient = torch.zeros(1, 3, 2, 2)
    gradient[0, :, 0, 1], gradient[0, 0, 1, 0], gradient[0, 1, 1, 1] = -2.0, 1.0, 0.5
    assert leading_pixels(gradient, 0.5).tolist() == [[2, 3]]
    assert leading_pixels(gradient, 0.5, "absolute").tolist() == [[1, 2]]
    view = View(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    clean = true_logit_pass(net, view)
    for by in ("signed", "absolute"):
        made = made_outliers(net, clean, AscoodConfig(share=0.5, leading=by))
        moved = (made != view.images).any(dim=1).flatten(1)
        chosen = leading_pixels(clean.images.grad, 0.5, by)
        assert not moved.scatter(1, chosen, False).any()
        assert moved.any()


@pytest.mark.parametrize("outliers", ["gradient", "shuffle"])
def test_loss_and_gradient_equal_the_recorded_ones(recorded, outliers):
    """Recorded in one pass over images and outliers, whose statistics BatchNorm shares."""
    data, net, view = recorded
    made = torch.from_numpy(data[f"openood__ascood_{outliers}__outliers"])
    logits = net(torch.cat([view.images, made]))
    settings, n = config(data, outliers), len(made)
    losses = TERMS["ascood"].loss(logits[n:], view, settings, None)
    parts = torch.stack([cross_entropy(logits[:n], view.targets), losses.mean()])
    total = parts[0] + settings.weight * parts[1]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(net.parameters()))])
    key = f"ascood_{outliers}_kl"
    np.testing.assert_allclose(parts.detach(), data[f"own__{key}__parts_id_ood"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(total.item(), data[f"openood__{key}__loss_total"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(gradient, data[f"openood__{key}__grad"], rtol=0, atol=2e-7)


@pytest.mark.parametrize("outliers", ["gradient", "shuffle"])
def test_the_step_trains_on_outliers_of_the_right_logit(recorded, outliers):
    """Gradients of the step, against a direct formula with passes and statistics of their own."""
    data, net, view = recorded
    keys = [f"objective.ascood.{name}={value}" for name, value in config(data, outliers) if value is not None]
    terms = active_terms(load_config("digits_ce", keys).objective)
    torch.manual_seed(3)
    for together in compute_losses(net, {"clean": view}, terms):
        torch.stack([term.weight * losses.mean() for term, losses in together]).sum().backward()
    found = [parameter.grad.clone() for parameter in net.parameters()]
    torch.manual_seed(3)
    made = made_outliers(net, true_logit_pass(net, view), config(data, outliers))
    log_p = net(made).log_softmax(1)
    divergence = -(log_p.mean(1) + np.log(5)).mean()
    total = cross_entropy(net(view.images), view.targets) + float(data["hp_ascood_w"]) * divergence
    for mine, direct in zip(found, torch.autograd.grad(total, list(net.parameters())), strict=True):
        torch.testing.assert_close(mine, direct)


def test_steps_are_in_units_of_normalised_images():
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=2, std=(0.1, 0.2, 0.4)), 4)
    view = View(torch.rand(3, 3, 8, 8), torch.tensor([0, 3, 1]))
    leaf = ((view.images - model.mean) / model.std).requires_grad_()
    model.eval()
    logits = model.head(model.backbone(leaf))
    (by_normalised,) = torch.autograd.grad(logits.gather(1, view.targets[:, None]).sum(), leaf)
    made = made_outliers(
        model, true_logit_pass(model, view), AscoodConfig(outliers="gradient", share=1, alpha=3)
    )
    moved = (made - model.mean) / model.std - leaf.detach()
    torch.testing.assert_close(moved, 3 * by_normalised, rtol=1e-3, atol=1e-4)
