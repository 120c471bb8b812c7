import pytest
import torch

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.backbones import Backbone, register
from rtk.models.batchnorm import batchnorm_layers
from rtk.models.heads import CosineHead


def test_resnet18_has_the_published_size():
    model = build_model(ModelConfig(), 100)
    assert sum(p.numel() for p in model.parameters()) == 11_220_132


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_logits_are_products_of_the_features_that_scores_see(head):
    model = build_model(ModelConfig(width=4, head=head), 5).eval()
    logits, features = model.forward_features(torch.rand(3, 3, 32, 32))
    weight, bias = model.head.used_weights()
    torch.testing.assert_close(features @ weight.T + bias, logits)


def test_cosine_head_equals_recorded_one(golden):
    data = golden("losses")
    weight, x = torch.from_numpy(data["cosine_weight_feat_x_class"]), torch.from_numpy(data["x"]).double()
    head = CosineHead(*weight.shape, temperature=float(data["cosine_temp"])).double()
    head.weight.data = weight.double().T
    expected = torch.from_numpy(data["cosine_logits"])
    torch.testing.assert_close(head(x).detach(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_logits_of_bf16_weights_are_float32(head):
    model = build_model(ModelConfig(name="timm/test_vit", head=head), 5, 48).to(torch.bfloat16).eval()
    logits, features = model.forward_features(torch.rand(2, 3, 48, 48).to(torch.bfloat16))
    assert logits.dtype == features.dtype == torch.float32
    logits.sum().backward()
    assert model.head.weight.grad.dtype == torch.bfloat16


def test_a_patch_size_of_one_number():
    name = "timm/xcit_nano_12_p16_224"
    assert build_model(ModelConfig(name=name), 5, 32)(torch.rand(1, 3, 32, 32)).shape == (1, 5)


def test_normalisation_is_the_first_layer():
    model = build_model(ModelConfig(width=4, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0)), 5).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    expected = model.head(model.backbone((images - mean) / std))
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_channels_last_changes_nothing():
    model = build_model(ModelConfig(width=4), 5).eval()
    images = torch.rand(2, 3, 32, 32)
    before = model(images)
    model.memory_format = torch.channels_last
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)


def test_frozen_batchnorm_stays_in_evaluation_mode():
    model = build_model(ModelConfig(width=4, freeze_batchnorm=True), 5).train()
    assert model.training
    assert not any(layer.training for layer in batchnorm_layers(model))


def test_any_timm_backbone():
    assert build_model(ModelConfig(name="timm/test_vit"), 5, 48)(torch.rand(2, 3, 48, 48)).shape == (2, 5)
    assert build_model(ModelConfig(name="timm/test_resnet"), 5)(torch.rand(2, 3, 64, 64)).shape == (2, 5)


@pytest.mark.parametrize(("name", "features"), [("mobilenetv3_small_050", 1024), ("ghostnet_100", 1280)])
def test_features_are_those_that_the_classifier_sees(name, features):
    model = build_model(ModelConfig(name=f"timm/{name}"), 5).eval()
    logits, found = model.forward_features(torch.rand(2, 3, 32, 32))
    assert (logits.shape, found.shape) == ((2, 5), (2, features))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 11.220132),
        ("resnet110", 1.736564),
        ("wrn28_10", 36.536884),
        ("resnet18_imagenet", 11.227812),
        ("resnet50", 23.712932),
        ("dinov3_s16", 21.625444),
        ("dinov3_b16", 85.718116),
        ("dinov3_l16", 303.181924),
        ("dinov3_h16plus", 840.637540),
        ("dinov3_7b16", 6716.440676),
    ],
)
def test_backbones_have_the_published_sizes(name, millions):
    with torch.device("meta"):
        model = build_model(ModelConfig(name=name), 100, 64)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == millions


@pytest.mark.parametrize("name", ["resnet110", "wrn28_10"])
def test_cifar_backbones_halve_the_map_twice(name):
    model = build_model(ModelConfig(name=name, width=8), 5).eval()
    maps = model.backbone.stages(model.backbone.conv1(torch.rand(2, 3, 32, 32)))
    assert maps.shape == (2, 32, 8, 8)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 5)


def test_dinov3_pools_the_class_token_unless_told_otherwise():
    images = torch.rand(2, 3, 32, 32)
    for pool, rows in ((None, slice(0, 1)), ("token", slice(0, 1)), ("avg", slice(5, None))):
        model = build_model(ModelConfig(name="timm/vit_tiny_patch16_dinov3_qkvb", pool=pool), 5, 32).eval()
        tokens = model.backbone.forward_features((images - 0.5) / 0.5)
        torch.testing.assert_close(model.forward_features(images)[1], tokens[:, rows].mean(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "token"}, "model.pool: got 'token', resnet18 has none"),
        ({"drop_path": 0.1}, "model.drop_path: got 0.1, resnet18 has none"),
        ({"name": "resnet50", "pool": "token"}, "timm cannot build 'resnet50'"),
        ({"name": "resnet50", "width": 8}, "model.width: got 8"),
        ({"name": "dinov3_s16"}, "data.image_size: got 40, wanted a multiple of the patch size 16"),
        ({"freeze_layers": 10}, "model.freeze_layers: got 10, wanted at most 9"),
    ],
)
def test_options_that_a_backbone_lacks_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_model(ModelConfig(**options), 5, 40)


@pytest.mark.parametrize("name", ["resnet19", "timm/resnet18x"])
def test_unknown_backbones_are_named(name):
    with pytest.raises(ValueError, match="model.name"):
        build_model(ModelConfig(name=name), 5)


def test_backbones_of_a_user_are_checked(fresh_tables):
    for row in (
        Backbone("mine"),
        Backbone("mine", torch.nn.Flatten),
        Backbone("timm/x", torch.nn.Flatten, 8),
    ):
        with pytest.raises(ValueError, match="wanted a plain name, build and a width above 0"):
            register(row)
    with pytest.raises(ValueError, match="backbone 'resnet18': rtk has one of this name"):
        register(Backbone("resnet18", torch.nn.Flatten, 8))
    register(Backbone("mine", torch.nn.Flatten, 8))
    with pytest.raises(ValueError, match="mine builds no module with num_features"):
        build_model(ModelConfig(name="mine"), 5)
