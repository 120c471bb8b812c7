"""Models of shapes alone, which load no compiler; nor does an optimiser, or DeepSpeed."""

import subprocess
import sys

import timm
import torch

from rtk.models.shapes_only import shapes_only

WORK = """
import sys, torch
from rtk.config.training import OptimizerConfig
from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.shapes_only import shapes_only
from rtk.optim import build_optimizer
from rtk.train.engine import import_deepspeed

with shapes_only():
    build_model(ModelConfig(name="resnet18", width=4), 3)
model = build_model(ModelConfig(name="resnet18", width=4), 3)
for name in ("sgd", "adamw"):
    optimizer = build_optimizer(OptimizerConfig(name=name), model)
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
import_deepspeed()
assert "torch._dynamo" not in sys.modules
torch._dynamo  # it can still be loaded
assert torch.compiler.disable(build_model) is not build_model
"""


def test_every_tensor_has_its_shape_and_no_memory():
    with shapes_only():
        model = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert not torch.empty(1).is_meta


def test_what_starts_a_training_loads_no_compiler():
    subprocess.run([sys.executable, "-c", WORK], check=True, encoding="utf-8")
