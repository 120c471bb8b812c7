"""The same scores by pytorch-ood, on the same numbers. Where it scales a score, so does the test."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.scores import FitData, Predictions, compute_image_score, compute_score, fit_temperature

detectors = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is a development dependency")

fdbd = pytest.importorskip("pytorch_ood.detector.fdbd")

CLASSES, DIMENSIONS = 10, 32


def said(weight, bias, features, labels):
    return Predictions(features @ weight.T + bias, features, labels)


@pytest.fixture(scope="module")
def world():
    """Non-negative features around class patterns, in float64; some predictions are wrong."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(CLASSES, DIMENSIONS, generator=generator, dtype=torch.float64) / 3
    bias = torch.randn(CLASSES, generator=generator, dtype=torch.float64) / 10

    def draw(count, spread):
        labels = torch.arange(count) % CLASSES
        noise = spread * torch.randn(count, DIMENSIONS, generator=generator, dtype=torch.float64)
        return said(weight, bias, (2 * weight[labels] + noise).relu(), labels)

    fit = FitData(draw(800, 0.5), draw(300, 0.5), weight, bias)
    return fit, draw(100, 1.5)


def head_of(fit):
    head = nn.Linear(DIMENSIONS, CLASSES).double()
    head.load_state_dict({"weight": fit.weight, "bias": fit.bias})
    return head.requires_grad_(False)


def close(found, peer, **tolerance):
    """rtk's score equals minus the peer's outlier score."""
    np.testing.assert_allclose(found, -np.asarray(peer), **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


@pytest.mark.parametrize(
    ("name", "detector", "scale"),
    [
        ("msp", detectors.MaxSoftmax(None), 1),
        ("max_logit", detectors.MaxLogit(None), 1),
        ("energy", detectors.EnergyBased(None), 1),
        ("entropy", detectors.Entropy(None), 1),
        ("gen", detectors.GEN(None), CLASSES),  # the mean over classes, not the sum
        ("odin_temperature", detectors.MaxSoftmax(None, t=1000.0), 1),
    ],
)
def test_scores_of_logits(world, name, detector, scale):
    fit, images = world
    close(compute_score(name, images, fit), scale * detector.predict_logits(images.logits), rtol=1e-4)


def test_klm(world):
    fit, images = world
    peer = detectors.KLMatching(None).fit_logits(fit.validation.logits)
    close(compute_score("klm", images, fit), peer.predict_logits(images.logits).detach())


def test_temperature_scaling(world):
    """Its optimiser stops after 50 short steps; rtk's temperature is at least as good."""
    fit, images = world
    logits, labels = fit.validation.logits, fit.validation.labels.clone()
    labels[::8] = (labels[::8] + 1) % CLASSES  # without mistakes there is no best temperature
    peer = detectors.TemperatureScaling(None).fit_logits(logits.float(), labels)
    theirs = peer.t.item()
    found = compute_score("odin_temperature", images, fit, temperature=theirs)
    close(found, peer.predict_logits(images.logits.float()).detach())
    assert cross_entropy(logits / fit_temperature(logits, labels), labels) < cross_entropy(
        logits / theirs, labels
    )


def test_mds_and_rmds(world):
    """It inverts N times the covariance, plus 1e-6, and halves the squared distance of MDS only."""
    fit, images = world
    features, labels = fit.train.features, fit.train.labels
    peer = detectors.Mahalanobis(None).fit_features(features.float(), labels)
    scaled = 2 * len(labels) * peer.predict_features(images.features.float())
    close(compute_score("mds", images, fit), scaled, rtol=1e-3)
    relative = detectors.RMD(None).fit_features(features.float(), labels)
    scaled = len(labels) * relative.predict_features(images.features.float())
    close(compute_score("rmds", images, fit), scaled, rtol=1e-3, atol=1e-2)


def test_knn(world):
    """It returns the distance where rtk returns its square."""
    fit, images = world
    peer = detectors.KNN(None, k=50).fit_features(fit.train.features, fit.train.labels)
    distance = peer.predict_features(images.features)
    close(compute_score("knn", images, fit), np.square(np.asarray(distance)))


def test_vim(world):
    fit, images = world
    peer = detectors.ViM(None, 16, fit.weight.float(), fit.bias.float())
    peer.fit_features(fit.train.features, fit.train.labels)
    close(
        compute_score("vim", images, fit, dim=16),
        peer.predict_features(images.features),
        rtol=1e-3,
        atol=1e-3,
    )


def test_she(world):
    fit, images = world
    peer = detectors.SHE(None, head_of(fit)).fit_features(fit.train.features, fit.train.labels)
    close(compute_score("she", images, fit), peer.predict_features(images.features))


def test_nnguide(world):
    """It keeps the whole bank, in float32."""
    fit, images = world
    head = head_of(fit).float()
    peer = detectors.NNGuide(None, head, k=10).fit_features(fit.train.features.float(), fit.train.labels)
    found = compute_score("nnguide", images, fit, fraction=1.0, k=10)
    close(found, peer.predict_features(images.features.float()), rtol=1e-4)


def test_fdbd(world):
    """It takes the mean over the other classes, not the sum."""
    fit, images = world
    peer = fdbd.fDBD(None, head_of(fit).float())
    peer.fit_features(fit.train.features)
    scaled = (CLASSES - 1) * peer.predict_features(images.features)
    close(compute_score("fdbd", images, fit), scaled, rtol=1e-4)


def test_dice(world):
    fit, images = world
    peer = detectors.DICE(None, fit.weight.float(), fit.bias.float(), p=0.9)
    peer.fit_features(fit.train.features, fit.train.labels)
    close(compute_score("dice", images, fit), peer.predict_features(images.features.float()), rtol=1e-4)


def pooled_head(fit):
    return nn.Sequential(nn.Flatten(), head_of(fit))


@pytest.mark.parametrize("variant", ["s", "b", "p"])
def test_ash(world, variant):
    fit, images = world
    peer = detectors.ASH(None, pooled_head(fit), variant=f"ash-{variant}", percentile=0.9)
    found = compute_score("ash", images, fit, variant=variant, percentile=90)
    close(found, peer.predict_feature_maps(images.features[:, :, None, None]))


def test_scale(world):
    fit, images = world
    peer = detectors.SCALE(None, pooled_head(fit), percentile=0.85)
    found = compute_score("scale", images, fit, percentile=85)
    close(found, peer.predict_feature_maps(images.features[:, :, None, None]))


def test_react(world):
    """It takes the percentile of the set it is given; rtk gives the validation set."""
    fit, images = world
    threshold = float(np.percentile(fit.validation.features, 90))
    peer = detectors.ReAct(None, pooled_head(fit), threshold=threshold)
    close(compute_score("react", images, fit), peer.predict_feature_maps(images.features[:, :, None, None]))


def test_odin():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(216, CLASSES)).double().eval()
    images = torch.rand(20, 3, 8, 8, dtype=torch.float64)
    for temperature in (1.0, 1000.0):
        peer = detectors.ODIN(net, eps=0.0014, temperature=temperature, norm_std=[1.0, 1.0, 1.0])
        found = compute_image_score("odin", net, images, temperature=temperature)
        close(found, peer.predict(images.clone()).detach(), rtol=1e-9)


def test_nci(world):
    fit, images = world
    peer = detectors.NCI(None, head_of(fit).float(), alpha=0.01).fit_features(fit.train.features)
    close(compute_score("nci", images, fit, alpha=0.01), peer.predict_features(images.features), rtol=1e-4)


def test_vra(world):
    """It clips both ends, by percentiles of each dimension of the training features."""
    fit, images = world
    peer = detectors.VRA(None, head_of(fit).float(), lower_percentile=0.3, upper_percentile=0.9)
    peer.fit_feature_maps(fit.train.features.float(), fit.train.labels)
    settings = {"percentile_low": 30, "percentile_high": 90, "below": "threshold"}
    close(compute_score("vra", images, fit, **settings), peer.predict_feature_maps(images.features.float()))


def test_gradnorm(world):
    """It takes the gradient of the mean cross-entropy to the uniform law, by automatic differentiation."""
    fit, images = world
    peer = detectors.GradNorm(head_of(fit), param_filter=lambda name: name == "weight")
    peer.to("cpu")
    close(compute_score("gradnorm", images, fit), peer.predict(images.features))


def test_rankfeat():
    """Of one stage, whose map is the backbone's output."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))
    images = torch.rand(7, 3, 9, 9)
    model = nn.Sequential(nn.ReLU(), backbone, head).eval()
    found = compute_image_score("rankfeat", model, images, stages="last")
    close(found, detectors.RankFeat(backbone, head).predict(images).detach(), rtol=1e-4)
