"""A sweep over a recipe that streams its training set: each trial has a feeder of its own."""

from __future__ import annotations

import pytest

from rtk.config.search_space import base_config, parse_space
from rtk.tune.results import read_trials
from rtk.tune.sweep import launch_sweep

pytestmark = pytest.mark.slow


def test_trials_stream_the_training_set(ray_session, tmp_path):
    tree = {
        "objectives": {"val/accuracy": "max"},
        "trials": 2,
        "scheduler": {"name": "none"},
        "fixed": {"train.workers": 1, "train.duration": "2ep", "model.width": 4, "data.train_rows": 256},
        "space": {"train.batch_size": {"choice": [32, 64]}},
        "warm_starts": [{"train.batch_size": 32}, {"train.batch_size": 64}],
    }
    space = parse_space(tree, "x")
    given = ["data.stream=true", "data.shuffle_rows=128", f"output={tmp_path}"]
    sweep = launch_sweep(space, base_config(space, "digits_ce", given), "s")
    trials = read_trials(sweep)
    assert [trial.attributes["state"] for trial in trials] == ["complete"] * 2
    steps = [max(row["step"] for row in trial.run.read_metrics()) for trial in trials]
    images = 256
    assert steps == [2 * (images // 32), 2 * (images // 64)]
