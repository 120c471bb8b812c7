"""Distributions of a search space."""

from __future__ import annotations

import pytest

from rtk.config.errors import ConfigError
from rtk.config.search_space import Parameter, base_config, load_space, nearest


@pytest.mark.parametrize(
    ("kind", "arguments", "value", "expected"),
    [
        ("uniform", (0.5, 2.0), 2.25, 2.0),
        ("loguniform", (0.5, 2.0), 0.25, 0.5),
        ("randint", (1, 4), 3, 3),
        ("quniform", (1.0, 2.0, 0.25), 1.4, 1.5),
        ("quniform", (1.0, 2.0, 0.75), 2.0, 1.75),
        ("quniform", (1.0, 2.0, 0.25), 0.0, 1.0),
        ("quniform", (0.0, 1.0, 0.1), 1.0, 1.0),
        ("choice", ("a", "b"), "b", "b"),
        ("choice", ("a", "b"), "c", "a"),
    ],
)
def test_the_nearest_value_that_can_be_drawn(kind, arguments, value, expected):
    assert nearest(Parameter(**{kind: arguments}), value) == expected


def test_words_of_a_space_are_those_of_the_keys_they_stand_for(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "objectives: {val/accuracy: max}\n"
        "fixed: {tracking.experiment: 2026-11-26, output: 'a #1', data: {near_ood: {v.2: no}}}\n"
        "warm_starts: [{model.weights: 007}]\n"
        "space:\n"
        "  model.weights: {choice: [on, 1e3, 007]}\n"
        "  data.augment.flip: {choice: [yes, no], when: {model.weights: [on]}}\n"
        "  optimizer.lr: {choice: [1e-3, 010]}\n"
    )
    space = load_space(path)
    assert space.space["model.weights"].choice == ("on", "1e3", "007")
    assert space.space["data.augment.flip"].choice == (True, False)
    assert space.space["data.augment.flip"].when == {"model.weights": ("on",)}
    assert space.space["optimizer.lr"].choice == (0.001, 10)
    assert space.warm_starts == ({"model.weights": "007"},)
    config = base_config(space, "digits_ce")
    assert (config.tracking.experiment, config.output) == ("2026-11-26", "a #1")
    assert config.data.near_ood["v.2"] == "no"


def test_a_key_that_stands_twice_in_a_space_is_named(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("objectives: {val/accuracy: max}\ntrials: 2\ntrials: 3\nspace: {seed: {choice: [1]}}\n")
    with pytest.raises(ConfigError, match=r"space.yaml, line 3: trials stands in line 2 already"):
        load_space(path)
