"""A package of an unknown hand is checked before anything of it is built, and none of it is run."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import re
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from rtk.config import ConfigError
from rtk.deploy.description import DESCRIPTION, WEIGHTS
from rtk.deploy.packaged_model import SCORES, PackagedModel

JUNK = (None, True, -1, 0, 1e308, math.nan, 10**30, "", "x" * 5000, "../../x", [], [[]], {}, {"a": {"b": []}})


def changed(folder, change) -> None:
    path = folder / DESCRIPTION
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rule.tau_id", math.nan, "rule.tau_id: got NaN"),
        ("rule.tau_ood", math.nan, "rule.tau_ood: got NaN"),
        ("model.width", 3000, r"got \(4, 3, 3, 3\), wanted \(3000, 3, 3, 3\) by model.json"),
        ("model.width", "wide", "model.width: got 'wide'"),
        ("model.name", "timm/no_such", "model.name"),
        ("model.head", "quadratic", "model.head: got 'quadratic'"),
        ("classes", ["a"], r"wanted \(1, 32\)"),
        ("classes", [], "classes: got \\[\\]"),
        ("preprocessing.image_size", 10**9, "preprocessing.image_size: got 1000000000"),
        ("preprocessing.crop", 1, "preprocessing.crop: got 1"),
        ("preprocessing.interpolation", "x", "preprocessing.interpolation: got 'x'"),
        ("rule.ood_score", "vim", "scores.safetensors: has no 'vim', by which model.json decides"),
        ("format", 2, "format 2, wanted 1"),
        ("expected", {"accept": 1}, "wanted how many images got accept, likely-wrong, unfamiliar"),
        ("expected", {"accept": 0, "likely-wrong": 0, "unfamiliar": 0}, "expected: got {'accept': 0"),
        ("expected", {"accept": -1, "likely-wrong": 0, "unfamiliar": 0}, "expected.accept: got -1"),
        ("expected", {"accept": 10**30, "likely-wrong": 0, "unfamiliar": 0}, "expected.accept: got 10"),
    ],
)
def test_what_does_not_fit_is_named(folder, key, value, said):
    *path, last = key.split(".")

    def change(content):
        for part in path:
            content = content[part]
        content[last] = value

    changed(folder, change)
    started = time.process_time()
    with pytest.raises(ConfigError, match=said):
        PackagedModel.load(folder)
    assert time.process_time() - started < 5


def leaves(tree, above=()):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from leaves(value, (*above, key))


def refusal(folder) -> str | None:
    try:
        PackagedModel.load(folder)
    except ConfigError as error:
        return str(error)
    return None


def test_any_damage_to_the_description_is_a_config_error_or_harmless(folder):
    text, draw = (folder / DESCRIPTION).read_text(), random.Random(0)
    refused = 0
    for _ in range(150):
        content = json.loads(text)
        *above, last = draw.choice(list(leaves(content)))
        place = content
        for part in above:
            place = place[part]
        if draw.random() < 0.3:
            del place[last]
        else:
            place[last] = draw.choice(JUNK)
        (folder / DESCRIPTION).write_text(json.dumps(content))
        said = refusal(folder)
        refused += said is not None
        assert said is None or re.fullmatch(r".*(model\.json|(weights|scores)\.safetensors|plug-in).*", said)
    assert refused > 75


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null", b"{}"])
def test_what_is_no_description(folder, content):
    (folder / DESCRIPTION).write_bytes(content)
    with pytest.raises(ConfigError, match="model.json"):
        PackagedModel.load(folder)


class Exploit:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", [WEIGHTS, SCORES, DESCRIPTION])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_the_place_of_tensors_is_not_run(folder, tmp_path, name, how):
    mark = tmp_path / "was-run"
    if how == "pickle":
        (folder / name).write_bytes(pickle.dumps(Exploit(mark)))
    else:
        torch.save({"weights": Exploit(mark)}, folder / name)
    with pytest.raises(ConfigError, match=name):
        PackagedModel.load(folder)
    assert not mark.exists()


def test_weights_of_another_model_are_named(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({name: value for name, value in weights.items() if "bn1" not in name}, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"bn1.*: got none, wanted \(4,\) by model.json"):
        PackagedModel.load(folder)
    save_file(weights | {"more": torch.zeros(2)}, folder / WEIGHTS)
    with pytest.raises(ConfigError, match=r"more: got \(2,\), wanted none"):
        PackagedModel.load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match="cannot read the weights"):
        PackagedModel.load(folder)


def test_scores_of_something_else_are_named(folder):
    save_file({"x": torch.zeros(1)}, folder / SCORES)
    with pytest.raises(ConfigError, match="scores.safetensors: damaged"):
        PackagedModel.load(folder)
