"""What `train.precision` makes of a network."""

import pytest
import timm
import torch
from torch import nn

from rtk.models.precision import has_depthwise, runs_in_bf16
from rtk.runtime.environment import supports_bf16


@pytest.mark.parametrize(
    ("name", "has"),
    [("resnet18", False), ("regnety_002", False), ("mobilenetv3_small_050", True), ("convnext_atto", True)],
)
def test_depthwise_convolutions_are_found_and_grouped_ones_are_none(name, has):
    with torch.device("meta"):
        assert has_depthwise(timm.create_model(name, num_classes=2)) == has


def test_auto_follows_network_and_device_and_the_rest_the_recipe():
    dense, depthwise = nn.Sequential(nn.Conv2d(8, 8, 3)), nn.Sequential(nn.Conv2d(8, 8, 3, groups=8))
    assert runs_in_bf16("auto", dense, "cpu") == supports_bf16("cpu")
    assert not runs_in_bf16("auto", depthwise, "cpu")
    for model in (dense, depthwise):
        assert runs_in_bf16("bf16", model, "cpu")
        assert runs_in_bf16("bf16_weights", model, "cpu")
        assert not runs_in_bf16("fp32", model, "cpu")
    if torch.cuda.is_available():
        assert runs_in_bf16("auto", depthwise, "cuda") == supports_bf16("cuda")


def test_a_first_convolution_of_one_channel_is_not_depthwise():
    assert not has_depthwise(nn.Sequential(nn.Conv2d(1, 8, 3)))
