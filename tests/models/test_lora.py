import pytest
import torch
from torch.nn.functional import cross_entropy

from rtk.config.model import ModelConfig
from rtk.models import build_model

TINY_DINOV3 = "timm/vit_tiny_patch16_dinov3_qkvb"


@pytest.fixture
def adapted():
    torch.manual_seed(0)
    return build_model(ModelConfig(name=TINY_DINOV3, lora={"rank": 4}), 5, 32)


def test_adapters_start_as_nothing(adapted):
    torch.manual_seed(0)
    plain = build_model(ModelConfig(name=TINY_DINOV3), 5, 32)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(adapted.eval()(images), plain.eval()(images))


def test_only_adapters_and_head_are_trained_and_every_adapter_matters(adapted):
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == {"head.weight", "head.bias"}
    assert sum(".lora_A." in name for name in trained) == 12 * 4
    cross_entropy(adapted(torch.rand(2, 3, 32, 32)), torch.tensor([0, 1])).backward()
    assert all(p.grad is not None for p in trained.values())
    assert all(p.grad.any() for name, p in trained.items() if ".lora_B." in name)


@pytest.mark.parametrize("options", [{"name": "resnet18"}, {"lora": {"rank": 4, "targets": ["nowhere"]}}])
def test_a_backbone_without_such_layers_is_named(options):
    config = ModelConfig(**{"name": TINY_DINOV3, "lora": {"rank": 4}, **options})
    with pytest.raises(ValueError, match=r"model.lora.targets: \w+ has no block with a layer called"):
        build_model(config, 5, 32)
