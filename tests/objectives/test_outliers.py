"""OpenMix and MixOE, the terms that mix outliers in, against the values recorded from their authors' code."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config import ConfigError, load_config
from rtk.config.model import ModelConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.views.maker import View, ViewMaker
from rtk.data.views.mixing import cutmix, mixoe_targets, mixup, openmix_targets
from rtk.models import build_model
from rtk.models.heads import CosineHead, LinearHead
from rtk.objectives import TERMS, view_makers
from rtk.objectives.mixoe import MixOEConfig
from rtk.objectives.openmix import OpenMixConfig


def loaded(data, prefix):
    features = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    net = nn.Sequential(*features, nn.Linear(24, 7)).double()
    names = {name: data[f"{prefix}__{name.replace('.', '_')}"] for name in net.state_dict()}
    net.load_state_dict({name: torch.from_numpy(value) for name, value in names.items()})
    return net


def total_and_gradient(net, clean, labels, mixed, weight):
    total = cross_entropy(net(clean), labels) + weight * mixed.mean()
    gradient = torch.autograd.grad(total, list(net.parameters()))
    return total.item(), torch.cat([part.flatten() for part in gradient]).numpy()


def images(data, *names):
    return [torch.from_numpy(data[f"oe__{name}"]) for name in names]


@pytest.mark.parametrize("case", ["0", "1"])
def test_openmix_equals_the_recorded_one(golden, case):
    data = golden("losses_more")
    net, (clean, outliers) = loaded(data, "openmix_net"), images(data, "x_id", "x_out")
    labels, n = torch.from_numpy(data["openmix__y_id"]), int(data["openmix__n_outliers_used"])
    lam = torch.full((n,), float(data[f"openmix__{case}__lambda"]), dtype=torch.float64)
    view = View(mixup(clean[:n], outliers[:n], lam), openmix_targets(labels[:n], lam, 7))
    mixed = TERMS["openmix"].loss(net(view.images), view, OpenMixConfig(), None)
    wanted = data[f"own__openmix_{case}__mixed_loss_per_sample"]
    np.testing.assert_allclose(mixed.detach(), wanted, rtol=0, atol=1e-10)
    total, gradient = total_and_gradient(net, clean, labels, mixed, float(data["hp_openmix_lambda_o"]))
    np.testing.assert_allclose(total, data[f"openmix__{case}__loss_total"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(gradient, data[f"openmix__{case}__grad"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["mixup0", "mixup1", "cutmix0", "cutmix1"])
def test_mixoe_equals_the_recorded_one(golden, case):
    data = golden("losses_more")
    net = loaded(data, "oe_net")
    clean, labels, outliers = images(data, "x_id", "y_id", "x_out")
    lam = torch.full((8,), float(data[f"mixoe_{case}__lambda_drawn"]), dtype=torch.float64)
    if case.startswith("cutmix"):
        u = torch.from_numpy((data[f"mixoe_{case}__centre_dim2_dim3"] + 0.5) / 8).expand(8, 2)
        made, lam = cutmix(clean, outliers, lam, u)
        np.testing.assert_allclose(lam, np.full(8, data[f"mixoe_{case}__lambda_from_box"]), atol=1e-12)
    else:
        made = mixup(clean, outliers, lam)
    view = View(made, mixoe_targets(labels, lam, 7))
    mixed = TERMS["mixoe"].loss(net(view.images), view, MixOEConfig(), None)
    total, gradient = total_and_gradient(net, clean, labels, mixed, float(data["hp_mixoe_lambda"]))
    np.testing.assert_allclose(total, data[f"openood__mixoe_{case}__loss_total"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(gradient, data[f"openood__mixoe_{case}__grad"], rtol=0, atol=2e-7)


@pytest.mark.parametrize("head", [LinearHead(24, 6, reject=True), CosineHead(24, 6, reject=True)])
def test_the_reject_class_is_seen_in_training_alone(head):
    features = torch.randn(5, 24)
    everything = head.train()(features)
    logits = head.eval()(features)
    assert (everything.shape, logits.shape) == ((5, 7), (5, 6))
    torch.testing.assert_close(logits, everything[:, :6])
    weight, bias = head.used_weights()
    torch.testing.assert_close(head.used_features(features) @ weight.T + bias, logits)


def test_confidence_is_that_of_the_published_evaluation(golden):
    """The reject logit is dropped before the softmax."""
    data = golden("losses_more")
    net, head = loaded(data, "openmix_net"), LinearHead(24, 6, reject=True).double()
    head.load_state_dict(net[-1].state_dict())
    logits = head.eval()(net[:-1](images(data, "x_id")[0]))
    confidence = logits.softmax(1).amax(1).detach()
    np.testing.assert_allclose(confidence, data["own__openmix_confidence_reject_logit_dropped"], atol=1e-12)
    other = data["own__openmix_confidence_softmax_over_all"]
    assert np.abs(confidence - other).max() > 0.01


def test_the_config_of_the_model_says_that_there_is_one():
    """So evaluation, packages and fine-tuning build the same head from it."""
    model = build_model(ModelConfig(width=2, reject_class=True), 6)
    assert model.head.weight.shape[0] == 7
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 6)


def test_openmix_without_a_reject_class_is_refused_and_mixoe_named():
    with pytest.raises(
        ConfigError, match=r"^model.reject_class: got false, .*once called openmix, is objective.mixoe"
    ):
        load_config("digits_ce", ["objective.openmix.weight=1", "data.outliers=x.parquet"])
    with pytest.raises(ConfigError, match=r"^data.outliers: got null, .* objective.mixoe"):
        load_config("digits_ce", ["objective.mixoe.weight=1"])


def test_outlier_exposure_equals_the_recorded_one(golden):
    """Cross-entropy of the outliers to the uniform law, and the gradient of all with the weight 0.5."""
    data = golden("losses_more")
    net, (clean, labels, outliers) = loaded(data, "oe_net"), images(data, "x_id", "y_id", "x_out")
    view = View(outliers, torch.full((8, 7), 1 / 7, dtype=torch.float64))
    term, logits = TERMS["outlier_exposure"], net(outliers)
    losses = term.loss(logits, view, term.block(), None)
    direct = (logits.logsumexp(1) - logits.mean(1)).detach()
    np.testing.assert_allclose(losses.detach(), direct, rtol=0, atol=1e-12)
    np.testing.assert_allclose(losses.detach(), data["own__oe_uniform_ce_per_sample"], rtol=0, atol=1e-10)
    total, gradient = total_and_gradient(net, clean, labels, losses, float(data["hp_oe_lambda"]))
    np.testing.assert_allclose(total, data["openood__oe_loss_total"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(total, data["openmix__oe_loss_total__weight0.5"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(gradient, data["openood__oe_grad"], rtol=0, atol=1e-10)


def test_the_outliers_view_has_outliers_and_the_uniform_law():
    train = ImageArrays(np.zeros((6, 3, 8, 8), np.uint8), np.arange(6) % 3, np.arange(6))
    config = load_config("digits_ce", ["objective.outlier_exposure.weight=0.5", "data.outliers=x.parquet"])
    outliers = np.full((4, 3, 8, 8), 255, np.uint8)
    makers = view_makers(config.objective)
    maker = ViewMaker(train, None, 3, config.data, makers, seed=0, outliers=outliers)
    view = maker(np.arange(6), epoch=0, names={"outliers"})["outliers"]
    assert view.images.amax() == 1  # padding is black
    torch.testing.assert_close(view.targets, torch.full((6, 3), 1 / 3))


def test_outlier_exposure_alone_is_refused():
    keys = ["objective.outlier_exposure.weight=1", "data.outliers=x", "objective.cross_entropy.weight=0"]
    with pytest.raises(ConfigError, match=r"^objective.outlier_exposure.weight: .*learns no label"):
        load_config("digits_ce", keys)
