"""Weights as other trainers save them: found whatever is around them, and nothing in a file is run."""

import argparse
import pathlib
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.weights import load_weights
from rtk.models.weights_file import WeightsError, open_weights


def classifier(seed=0):
    torch.manual_seed(seed)
    return build_model(ModelConfig(width=2), 3, 16)


def state_of(model):
    """Its tensors by the names that a trainer of the same network has."""
    return {
        name.removeprefix("backbone.").replace("head.", "fc."): tensor.clone()
        for name, tensor in model.state_dict().items()
    }


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


HISTORY = defaultdict(list, {"loss": [1.0]})
OTHER = {name: torch.full_like(tensor, 9) for name, tensor in state_of(classifier()).items()}
WAYS = {
    "plain": lambda s: s,
    "ordered": OrderedDict,
    "parameters": lambda s: {n: torch.nn.Parameter(t) if t.is_floating_point() else t for n, t in s.items()},
    "data_parallel": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled_in_parallel": lambda s: prefixed(s, "module._orig_mod."),
    "parallel_in_compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "compiled_layer": lambda s: {n.replace("stages.0.", "stages.0._orig_mod."): t for n, t in s.items()},
    "wrapped": lambda s: {"epoch": 3, "state_dict": s},
    "imagenet_example": lambda s: {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": prefixed(s, "module."),
        "best_acc1": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/tmp"), history=HISTORY),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
    },
    "lightning": lambda s: {"state_dict": prefixed(s, "model."), "hyper_parameters": {}, "loops": HISTORY},
    "any_word": lambda s: {"state_dict": prefixed(s, "student.network.")},
    "average_only": lambda s: {"state_dict_ema": s, "epoch": 1},
    "averaged_model": lambda s: {"ema": {**prefixed(s, "module."), "n_averaged": torch.tensor(7)}},
    "nested": lambda s: {"ema": {"module": s, "updates": 5}},
    "tutorial": lambda s: {"model_state_dict": s, "optimizer_state_dict": {}},
    "short": lambda s: {"net": s, "acc": 91.0},
    "deit": lambda s: {"model": s, "model_ema": OTHER, "scaler": {"scale": torch.ones(1)}},
    "timm": lambda s: {"state_dict": s, "state_dict_ema": OTHER, "args": argparse.Namespace(model="a")},
    "unknown_word": lambda s: {"my_weights": s, "step": 5},
    "rtk": lambda s: {
        n.replace("fc.", "head.") if n[:3] == "fc." else f"backbone.{n}": t for n, t in s.items()
    },
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("way", WAYS)
def test_weights_are_found_in_what_a_trainer_saves(tmp_path, way, legacy):
    wanted, model = classifier(1), classifier()
    path = tmp_path / "model_best.pth.tar"
    torch.save(WAYS[way](state_of(wanted)), path, _use_new_zipfile_serialization=not legacy)
    load_weights(model, open_weights(path), str(path))
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("name", ["a.ckpt", "a.pth.tar", "a.bin", "a.safetensors", "weights"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_content_says_what_a_file_is(tmp_path, name, kind):
    state, path = {"layer.weight": torch.arange(6.0).view(2, 3)}, tmp_path / name
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    (found,) = open_weights(path).values()
    assert found.shape == (2, 3)
    assert torch.equal(found.read(), state["layer.weight"])


def test_what_rtk_export_wrote_is_its_weights_not_its_scores(tmp_path):
    save_file({"head.weight": torch.ones(1)}, tmp_path / "weights.safetensors")
    save_file({"knn|bank": torch.ones(1)}, tmp_path / "scores.safetensors")
    assert list(open_weights(tmp_path)) == ["head.weight"]


RUN = []


class Runs:
    """Would note that it was run, were it."""

    def __reduce__(self):
        return RUN.append, ("run",)


class Evaluates:
    def __reduce__(self):
        return eval, ("__import__('tests.models.test_pytorch_file').models.test_pytorch_file.RUN.append(1)",)


class System:
    def __reduce__(self):
        import os

        return os.system, ("false",)


class Custom:
    """Code of its own that a plain unpickler would run."""

    def __init__(self):
        self.value = 1

    def __setstate__(self, state):
        RUN.append("state")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("harmful", [Runs, Evaluates, System])
def test_code_in_a_file_is_refused(tmp_path, harmful, legacy):
    content = {"state_dict": state_of(classifier()), "args": harmful()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"a.pth is no plain file of tensors \("):
        open_weights(tmp_path / "a.pth")
    assert RUN == []


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_objects_beside_the_weights_are_not_built(tmp_path, legacy):
    content = {"state_dict": state_of(classifier()), "config": Custom()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    allowed = set(torch.serialization.get_safe_globals())
    assert len(open_weights(tmp_path / "a.pth")) == len(content["state_dict"])
    assert RUN == []
    assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds no mapping of names to tensors, but more than tensors: epoch, lr"),
        ({}, "but nothing"),
        ([torch.ones(1)], "but an object of another kind"),
        ({"weight": torch.ones(1), "args": argparse.Namespace(a=1)}, "but more than tensors: args"),
        (
            {"student": {"w": torch.ones(1)}, "teacher": {"w": torch.ones(2)}},
            "each of student, teacher, wanted",
        ),
    ],
)
def test_a_file_without_weights_says_what_it_holds(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"a.pth: .*{message}"):
        open_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("start", [b"", b"version https://git-lfs", b"\x1f\x8b", b"<!DOCTYPE html>"])
def test_a_file_of_another_kind_says_how_it_starts(tmp_path, start):
    (tmp_path / "a.safetensors").write_bytes(start)
    with pytest.raises(WeightsError, match="neither a PyTorch nor a safetensors file: it starts with"):
        open_weights(tmp_path / "a.safetensors")
