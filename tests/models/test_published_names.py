"""Weights of public projects give rtk's models the logits of the projects' own networks."""

from __future__ import annotations

import argparse

import pytest
import torch
import torchvision
from torch import nn

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.weights import fitting_weights, load_weights
from rtk.models.weights_file import WeightsError, open_weights, read_weights
from tests.models import published_networks as published
from tests.models.dinov3_cases import meta_state, recorded_model
from tests.models.published_efficientnet import EfficientNet
from tests.models.published_networks import settle

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def lightning(network):
    """A `.ckpt` of Lightning, with hyper-parameters that hold layers, optimisers and options."""
    return {
        "epoch": 3,
        "global_step": 12,
        "pytorch-lightning_version": "2.2.1",
        "state_dict": published.RadTrainer(network, MEAN, STD).state_dict(),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [
            {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.2}]}
        ],
        "lr_schedulers": [{"last_epoch": 3}],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "backbone": nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()),
            "optimizer": torch.optim.SGD,
            "options": argparse.Namespace(pgd=False),
        },
    }


def plain(network):
    return network.state_dict()


def parallel(network):
    return prefixed(network.state_dict(), "module.")


# Name: network of the project, what its trainer saves of it, rtk's model.
CASES = {
    "sureplus_linear": (lambda: published.CifarResNet(4, 3, "linear"), parallel, {"width": 4}),
    "sureplus_cosine": (
        lambda: published.CifarResNet(4, 3, "classifier"),
        parallel,
        {"width": 4, "head": "cosine", "temperature": 16.0},
    ),
    "sureplus_swa": (
        lambda: published.CifarResNet(4, 3, "linear"),
        lambda net: {"n_averaged": torch.tensor(3), **prefixed(net.state_dict(), "module.module.")},
        {"width": 4},
    ),
    "openood_resnet18": (lambda: published.CifarResNet(4, 3), plain, {"width": 4}),
    "openood_wrn": (
        lambda: published.WideResNet(8, 3),
        lambda net: {"state_dict": parallel(net), "epoch": 1},
        {"name": "wrn28_10", "width": 8},
    ),
    "openood_resnet50": (
        lambda: torchvision.models.resnet50(num_classes=3),
        plain,
        {"name": "resnet50"},
    ),
    "torchvision_resnet18": (
        lambda: torchvision.models.resnet18(num_classes=3),
        lambda net: {"ema": {"module": net.state_dict()}, "step": 4},
        {"name": "resnet18_imagenet"},
    ),
    "pytorchcv_resnet110": (
        lambda: published.pytorchcv_resnet110(4, 3),
        plain,
        {"name": "resnet110", "width": 4},
    ),
    "pytorchcv_wrn28": (
        lambda: published.pytorchcv_wrn28(8, 3),
        lambda net: {"model": plain(net)},
        {"name": "wrn28_10", "width": 8},
    ),
    "pytorchcv_resnet18": (
        lambda: published.pytorchcv_resnet18(3),
        lambda net: prefixed(net.state_dict(), "_orig_mod."),
        {"name": "resnet18_imagenet"},
    ),
    "rat_resnet110": (
        lambda: published.pytorchcv_resnet110(4, 3),
        lightning,
        {"name": "resnet110", "width": 4, "mean": MEAN, "std": STD},
    ),
    "rat_wrn28": (
        lambda: published.pytorchcv_wrn28(8, 3),
        lightning,
        {"name": "wrn28_10", "width": 8, "mean": MEAN, "std": STD},
    ),
    "efficientnet_pytorch_lite0": (
        lambda: EfficientNet(3, lite=True),
        plain,
        {"name": "timm/tf_efficientnet_lite0"},
    ),
    "efficientnet_pytorch_b0": (
        lambda: EfficientNet(3, lite=False),
        plain,
        {"name": "timm/tf_efficientnet_b0"},
    ),
}


def saved(tmp_path, case, suffix="weights.ckpt"):
    """The project's network, the file of its weights, and rtk's model."""
    make, save, options = CASES[case]
    network, path = settle(make()), tmp_path / suffix
    torch.save(save(network), path)
    return network, path, build_model(ModelConfig(**options), 3, 32).eval()


@pytest.mark.parametrize("case", CASES)
def test_the_networks_own_logits(tmp_path, case):
    network, path, model = saved(tmp_path, case)
    load_weights(model, open_weights(path), str(path))
    images = torch.rand(2, 3, 64 if "name" in CASES[case][2] else 32, 64)
    with torch.no_grad():
        expected = network((images - model.mean) / model.std)
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
        assert expected.std() > 0.01


@pytest.mark.parametrize("cosine", [False, True], ids=["linear", "cosine"])
def test_sureplus_dinov3_gives_its_logits(golden, tmp_path, cosine):
    data = golden("dinov3_meta")
    size = data["x_norm_clstoken"].shape[1]
    theirs = published.CosineClassifier(size, 5, 8.0) if cosine else nn.Linear(size, 5)
    state = prefixed({**meta_state(data), **prefixed(theirs.state_dict(), "head.")}, "module.")
    torch.save(state, tmp_path / "best_1.pth")
    ours = recorded_model(cosine=cosine)
    load_weights(ours, open_weights(tmp_path / "best_1.pth"), "best_1.pth")
    with torch.no_grad():
        expected = theirs(torch.from_numpy(data["x_norm_clstoken"]))
        torch.testing.assert_close(ours(torch.from_numpy(data["x"])), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["openood_resnet18", "rat_wrn28", "efficientnet_pytorch_lite0"])
def test_counters_of_batches_may_be_missing(tmp_path, case):
    _, path, model = saved(tmp_path, case)
    weights = {n: t for n, t in open_weights(path).items() if not n.endswith("num_batches_tracked")}
    assert len(weights) < len(open_weights(path))
    load_weights(model, weights, str(path))


def test_what_stands_beside_the_weights_is_named(tmp_path):
    _, path, model = saved(tmp_path, "rat_wrn28")
    file = read_weights(path)
    assert file.place == "state_dict"
    assert {"hyper_parameters", "optimizer_states", "epoch"} <= set(file.beside)
    assert fitting_weights(model, file.tensors, "f").owner.startswith("pytorchcv, RAT")


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (
            "rat_wrn28",
            {"mean": (0.5, 0.5, 0.5)},
            r"model.mean: got \[0.5, 0.5, 0.5\], but f was trained with \[",
        ),
        ("sureplus_cosine", {"temperature": 8.0}, "model.temperature: got 8, but f was trained with 16"),
        (
            "sureplus_cosine",
            {"head": "linear"},
            r"missing \(1\): head.bias; model.head=cosine is what the weights",
        ),
        ("sureplus_linear", {"head": "cosine"}, r"unexpected \(1\): head.bias; model.head=linear is what"),
        (
            "openood_resnet18",
            {"width": 8},
            r"wrongly shaped \(\d+\): backbone.conv1.weight \(4, 3, 3, 3\) instead",
        ),
        ("torchvision_resnet18", {"name": "resnet50"}, r"missing \(\d+\): (backbone.\S+, ){5}...; wrong"),
        ("openood_wrn", {"name": "resnet18", "width": 8}, r"names read as of OpenOOD, OpenMix .*: missing"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, case, options, message):
    _, path, _ = saved(tmp_path, case)
    with torch.device("meta"):
        model = build_model(ModelConfig(**{**CASES[case][2], **options}), 3, 32)
    with pytest.raises(WeightsError, match=message):
        load_weights(model, open_weights(path), "f")


def test_pre_activation_resnets_are_not_taken_for_rtks():
    # OpenMix's ResNet-110 has the names of others, and BatchNorm before its convolutions.
    state = published.CifarResNet(4, 3).state_dict()
    state["bn.weight"] = state.pop("bn1.weight")
    weights = as_lazy(state)
    with pytest.raises(
        WeightsError, match=r"missing \(1\): backbone.bn1.weight; unexpected \(1\): backbone.bn"
    ):
        load_weights(build_model(ModelConfig(width=4), 3, 32), weights, "f")


def as_lazy(state):
    from rtk.models.weights_file import LazyTensor

    return {name: LazyTensor(tuple(tensor.shape), lambda t=tensor: t) for name, tensor in state.items()}


def test_strange_names_are_listed_by_the_first_five():
    state = {f"encoder.{number}.w": torch.ones(2) for number in range(9)}
    message = (
        r"names read as of timm, or the model's own\): missing \(\d+\): (backbone.\S+, ){5}...; "
        r"unexpected \(9\): (backbone\.\d\.w|backbone.encoder.\d.w)"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(build_model(ModelConfig(width=4), 3, 32), as_lazy(state), "f")
