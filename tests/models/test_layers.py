import pytest
import torch

from rtk.config import load_config
from rtk.config.model import ModelConfig
from rtk.config.training import OptimizerConfig
from rtk.models import build_model
from rtk.models.layers import layer_indices, learning_rate_scales, suits_channels_last
from rtk.optim import build_optimizer

TINY_DINOV3 = "timm/vit_tiny_patch16_dinov3_qkvb"


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet18", 9), ("resnet110", 55), ("wrn28_10", 14), (TINY_DINOV3, 13)]
)
def test_every_parameter_is_in_a_layer(name, layers):
    with torch.device("meta"):
        backbone = build_model(ModelConfig(name=name), 5, 32).backbone
    indices = layer_indices(backbone)
    assert set(indices) == {name for name, _ in backbone.named_parameters()}
    assert set(indices.values()) == set(range(layers))


def test_frozen_layers_take_no_gradients():
    model = build_model(ModelConfig(name=TINY_DINOV3, freeze_layers=12), 5, 32)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[2] for name in trained if ".blocks." in name} == {"11"}
    assert {"backbone.norm.weight", "head.weight"} < trained
    assert not {"backbone.cls_token", "backbone.patch_embed.proj.weight"} & trained


def test_learning_rates_decay_from_the_head_down():
    model = build_model(ModelConfig(name=TINY_DINOV3), 5, 32)
    scales = learning_rate_scales(model, 0.5)
    wanted = {"head.weight": 1, "backbone.norm.weight": 0.5, "backbone.blocks.11.norm1.weight": 0.5}
    wanted |= {"backbone.blocks.0.norm1.weight": 0.5**12, "backbone.cls_token": 0.5**13}
    assert {name: scales[name] for name in wanted} == wanted


@pytest.mark.parametrize(("decay", "groups"), [(1.0, 1), (0.5, 14)])
def test_the_optimiser_has_a_group_for_every_rate(decay, groups):
    model = build_model(ModelConfig(name=TINY_DINOV3), 5, 32)
    optimizer = build_optimizer(OptimizerConfig(name="adamw", lr=0.1, layer_decay=decay), model)
    assert len(optimizer.param_groups) == groups
    assert all(group["lr"] == pytest.approx(0.1 * group["scale"]) for group in optimizer.param_groups)


@pytest.mark.parametrize(("decay", "last"), [(1.0, 1.0), (0.5, 0.5)])
def test_the_head_can_learn_at_a_rate_of_its_own(decay, last):
    model = build_model(ModelConfig(width=2), 5)
    optimizer = build_optimizer(OptimizerConfig(lr=0.2, layer_decay=decay, head_scale=0.05), model)
    scales = {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]}
    assert {scales[id(parameter)] for parameter in model.head.parameters()} == {0.05}
    assert scales[id(model.backbone.stages[-1][-1].conv2.weight)] == last
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.head.bias)] == pytest.approx(0.2 * 0.05)
    assert scales.keys() == {id(parameter) for parameter in model.parameters()}


def test_narrow_shortcuts_are_not_laid_out_channels_last():
    assert not suits_channels_last(build_model(ModelConfig(width=4), 5))
    assert suits_channels_last(build_model(ModelConfig(width=8), 5))
    assert suits_channels_last(build_model(ModelConfig(name=TINY_DINOV3), 5, 32))


def test_the_linear_probe_trains_the_head_alone(monkeypatch):
    for variable in ("RTK_DATA", "RTK_WEIGHTS"):
        monkeypatch.setenv(variable, "somewhere")
    config = load_config("dinov3_linear_probe")
    with torch.device("meta"):
        model = build_model(config.model.model_copy(update={"weights": None}), 1000, config.data.image_size)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["head.weight", "head.bias"]
