"""What is said of a sweep at its end."""

from __future__ import annotations

import pytest

from rtk.config import load_config
from rtk.config.search_space import base_config, parse_space, points
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import Sweep, trial_name
from rtk.runtime.ray_session import start_ray  # noqa: F401 (before ray.tune, whose settings it makes)
from rtk.tune.study import draw, open_study
from rtk.tune.summary import summarise

TREE = {
    "objectives": {"val/aurc": "min"},
    "trials": 3,
    "fixed": {"train.duration": "1ep"},
    "warm_starts": [{"optimizer.lr": 0.2, "sharpness.variant": "none"}, "recipe"],
    "space": {
        "optimizer.lr": {"uniform": [0.1, 1]},
        "sharpness.variant": {"choice": ["none", "fsam"]},
        "sharpness.rho": {"uniform": [0.1, 1], "when": {"sharpness.variant": ["fsam"]}},
    },
}


@pytest.fixture
def sweep(tmp_path):
    """A sweep of three trials, of which the first is the best and the second has the recipe's own values."""

    def make(given):
        space = parse_space(TREE, "here")
        config = base_config(space, "digits_ce", [f"output={tmp_path}"])
        sweep = Sweep.create(space, config, "s", given)
        study = open_study(sweep.path, space)
        for point in points(space, config):
            study.enqueue_trial(point)
        for number, aurc in enumerate((0.01, 0.02, 0.03)):
            trial = study.ask()
            values = [f"{key}={value}" for key, value in draw(trial, space).items()]
            run = RunFolder.create(
                load_config("digits_ce", [f"output={sweep.path}", *values]), trial_name(number)
            )
            run.append_metrics(5, 1.0, {"val/aurc": aurc, "val/accuracy": 0.5})
            study.tell(trial, aurc)
        return sweep

    return make


def test_best_values_beside_the_recipes_own(sweep):
    found = summarise(sweep(["my recipe.yaml", "seed=3"]))
    assert found.values == {"optimizer.lr": 0.2, "sharpness.variant": "none"}  # rho's condition does not hold
    assert found.command == "rtk train 'my recipe.yaml' seed=3 optimizer.lr=0.2 sharpness.variant=none"
    assert found.plain()["best"] == {"number": 0, "state": "complete", "val/aurc": 0.01}
    assert found.plain()["default"] == {"number": 1, "state": "complete", "val/aurc": 0.02}


def test_a_sweep_of_an_older_version_names_the_trials_config(sweep):
    old = sweep([])
    config = old.path / "trial-0000" / "config.yaml"
    assert summarise(old).command == f"rtk train {config} optimizer.lr=0.2 sharpness.variant=none"
