"""Walking through the modules of a model."""

import timm
import torch
from torch import nn

from rtk.models.batchnorm import modules_of


def test_modules_come_in_torchs_order_and_once():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared, nn.BatchNorm1d(2)), shared, nn.ModuleList([nn.ReLU()]))
    model.register_module("nothing", None)
    assert modules_of(model) == list(model.modules())
    with torch.device("meta"):
        network = timm.create_model("efficientnet_lite0", num_classes=2)
    assert modules_of(network) == list(network.modules())
