import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.weights import load_weights
from rtk.models.weights_file import WeightsError, open_weights
from tests.models.dinov3_cases import meta_state, recorded_model


@pytest.fixture
def recorded(golden):
    data = golden("dinov3_meta")
    return data, meta_state(data)


def load(model, path, **options):
    load_weights(model, open_weights(path), str(path), **options)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_metas_weights_give_its_tokens(recorded, tmp_path, suffix):
    data, state = recorded
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state, path)
    model = recorded_model()
    load(model, path, new_head=True)
    tokens = model.backbone.forward_features(torch.from_numpy(data["x"])).detach()
    np.testing.assert_allclose(tokens[:, 0], data["x_norm_clstoken"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(tokens[:, 5:], data["x_norm_patchtokens"], rtol=0, atol=1e-5)
    _, features = model.forward_features(torch.from_numpy(data["x"]))
    np.testing.assert_allclose(features.detach(), data["forward"], rtol=0, atol=1e-5)


def test_rounded_periods_of_metas_files_are_kept(recorded, tmp_path):
    _, state = recorded
    rounded = state["rope_embed.periods"].bfloat16()
    torch.save({**state, "rope_embed.periods": rounded}, tmp_path / "weights.pth")
    model = recorded_model()
    load(model, tmp_path / "weights.pth", new_head=True)
    assert torch.equal(model.backbone.rope.periods, rounded.float())
    assert not torch.equal(rounded.float(), state["rope_embed.periods"])


def test_hugging_faces_weights_give_the_tokens_of_its_own_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.DINOv3ViTConfig(num_register_tokens=4, **sizes)
    theirs = transformers.DINOv3ViTModel(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ours = recorded_model()
    load(ours, tmp_path, new_head=True)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images).last_hidden_state
        torch.testing.assert_close(ours.backbone.forward_features(images), expected, rtol=0, atol=1e-5)


def test_every_mismatch_is_listed_and_nothing_is_loaded(recorded, tmp_path):
    _, state = recorded
    del state["cls_token"]
    state |= {"blocks.7.norm1.bias": torch.zeros(192), "norm.weight": torch.zeros(7)}
    save_file(state, tmp_path / "weights.safetensors")
    model = recorded_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = (
        r"missing \(3\): backbone.cls_token, head.weight, head.bias; "
        r"unexpected \(1\): backbone.blocks.7.norm1.bias; "
        r"wrongly shaped \(1\): backbone.norm.weight \(7,\) instead of \(192,\); model.head_weights=new"
    )
    with pytest.raises(WeightsError, match=message):
        load(model, tmp_path / "weights.safetensors")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_biases_that_the_model_has_no_place_for_are_refused(recorded, tmp_path):
    _, state = recorded
    model = recorded_model(qkv_bias=False)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected \(4\): backbone.blocks.0.attn.q_bias"):
        load(model, tmp_path / "weights.safetensors", new_head=True)
    zeroed = {name: torch.zeros_like(v) if "qkv.bias" in name else v for name, v in state.items()}
    save_file(zeroed, tmp_path / "weights.safetensors")
    load(model, tmp_path / "weights.safetensors", new_head=True)


@pytest.mark.parametrize("head_weights", ["load", "new"])
def test_timms_weights_with_their_head(tmp_path, head_weights):
    import timm

    theirs = timm.create_model("test_vit", num_classes=5, img_size=48).eval()
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    classes = 5 if head_weights == "load" else 7
    ours = build_model(ModelConfig(name="timm/test_vit"), classes, 48).eval()
    load(ours, tmp_path, new_head=head_weights == "new")
    images = torch.rand(2, 3, 48, 48)
    logits, features = ours.forward_features(images * 0.5 + 0.5)
    torch.testing.assert_close(
        features, theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    )
    assert logits.shape == (2, classes)
    if head_weights == "load":
        torch.testing.assert_close(logits, theirs(images))


def test_position_embeddings_follow_the_image_size(tmp_path):
    import timm

    save_file(
        timm.create_model("test_vit", num_classes=5, img_size=32).state_dict(), tmp_path / "a.safetensors"
    )
    ours = build_model(ModelConfig(name="timm/test_vit"), 5, 64).eval()
    load(ours, tmp_path)
    assert ours(torch.rand(2, 3, 64, 64)).shape == (2, 5)


class Harmful:
    def __reduce__(self):
        return eval, ("print('code of the file has run')",)  # not `print` itself, which Ray Data replaces


def test_code_in_a_file_is_refused(tmp_path, capsys):
    torch.save({"weight": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="no plain file of tensors"):
        open_weights(tmp_path / "weights.pth")
    assert "has run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nowhere.pth", "broken.safetensors", "broken.pth", "empty"])
def test_unreadable_files_are_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    for broken in ("broken.safetensors", "broken.pth"):
        (tmp_path / broken).write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=name):
        open_weights(tmp_path / name)
