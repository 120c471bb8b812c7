"""Trials with several seeds: the objective is their mean, and all of them hold the same images out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.config.search_space import base_config, parse_space
from rtk.data.sets.of_run import split_train
from rtk.runs.folder import RunFolder
from rtk.runs.seeds import seed_of
from rtk.runs.sweep import replicates_of, trials_of
from rtk.runtime.ray_session import start_ray  # noqa: F401 (before ray.tune, whose settings it makes)
from rtk.tracking.mirror import Mirror
from rtk.tune.outline import outline_sweep
from rtk.tune.results import read_trials
from rtk.tune.study import open_study
from rtk.tune.summary import summarise
from rtk.tune.sweep import launch_sweep, resume_sweep
from rtk.tune.trial import mean_result

TREE = {
    "objectives": {"val/accuracy": "max"},
    "trials": 2,
    "replicates": 2,
    "scheduler": {"name": "asha", "grace": 1, "reduction": 2},
    "fixed": {
        "data.train_rows": 256,
        "data.validation": None,
        "model.width": 4,
        "train.duration": "2ep",
        "train.threads": 1,
        "train.workers": 1,
    },
    "warm_starts": [{"optimizer.lr": 0.05}, {"optimizer.lr": 1e-7}],
    "space": {"optimizer.lr": {"loguniform": [1e-7, 0.1]}},
}


def test_the_result_of_several_seeds_is_their_mean():
    one = {"epoch": 2, "step": 8, "finished": True, "val/aurc": 0.25}
    assert mean_result([one]) == one
    found = mean_result([one, {**one, "val/aurc": 0.5}, {**one, "val/aurc": 0.75}])
    assert found == {**one, "val/aurc": 0.5, "std/val/aurc": 0.25}
    assert np.isnan(mean_result([one, {**one, "val/aurc": float("nan")}])["val/aurc"])


def test_all_seeds_of_a_trial_hold_the_same_images_out():
    space = parse_space(TREE, "here")
    config = base_config(space, "digits_ce", ["seed=7"])
    assert config.data.validation_seed == 7
    second = config.model_copy(update={"seed": 8})
    for one, two in zip(split_train(config, 100), split_train(second, 100), strict=True):
        assert (one == two).all()
    alone = load_config("digits_ce", ["data.validation=null", "seed=7"])  # as without the key
    assert (split_train(alone, 100)[1] == split_train(config, 100)[1]).all()
    given = base_config(space, "digits_ce", ["data.validation_seed=3"])
    assert given.data.validation_seed == 3
    assert outline_sweep(space, config)["seeds"] == [7, 8]
    single = base_config(parse_space({**TREE, "replicates": 1}, "here"), "digits_ce")
    assert single.data.validation_seed is None


@pytest.mark.slow
def test_a_sweep_over_several_seeds_is_whole_after_a_resume(ray_session, tmp_path, capsys):
    space = parse_space(TREE, "here")
    config = base_config(space, "digits_ce", [f"output={tmp_path}"])
    sweep = launch_sweep(
        parse_space({**TREE, "trials": 1}, "here"), config, "s", given=["digits_ce", "seed=0"]
    )
    (first,) = read_trials(sweep)
    runs = [first.run, *replicates_of(first.run)]
    assert [(run.name, seed_of(run)) for run in runs] == [("trial-0000", 0), ("trial-0000-seed1", 1)]
    reached = [[r["value"] for r in run.read_metrics() if r["key"] == "val/accuracy"][-1] for run in runs]
    assert reached[0] != reached[1]
    assert first.values("val/accuracy") == reached
    trial = open_study(sweep.path, space).trials[0]  # the other is waiting
    assert trial.values == [first.metrics["val/accuracy"]] == [pytest.approx(np.mean(reached))]
    assert trial.user_attrs["std"] == {"val/accuracy": pytest.approx(np.std(reached, ddof=1))}
    rows = {row["key"]: row["value"] for row in first.run.read_metrics()}
    assert rows["mean/val/accuracy"] == trial.values[0]
    assert rows["std/val/accuracy"] == trial.user_attrs["std"]["val/accuracy"]

    # The second trial trains its first seed, is stopped by ASHA or not, and ends as the journal says.
    before = [(run.path / "metrics.csv").read_text() for run in runs]
    resume_sweep(sweep, {"trials": 2})
    assert [(run.path / "metrics.csv").read_text() for run in runs] == before
    assert [run.name for run in trials_of(RunFolder(sweep.path))] == ["trial-0000", "trial-0001"]
    second = read_trials(sweep)[1]
    assert (second.attributes["state"] == "complete") == bool(second.replicates)
    found = summarise(sweep)
    assert found.plain()["best"]["replicates"] == {"val/accuracy": reached}
    assert found.seeds_command.endswith("rtk train digits_ce optimizer.lr=0.05 --seeds 2..4 --name s-best")
    mirror = Mirror(replicates_of(first.run)[0])
    told = mirror._connect().get_run(mirror._state()["run_id"])
    assert told.data.tags["mlflow.parentRunId"] == Mirror(RunFolder(sweep.path))._state()["run_id"]
    assert (told.data.tags["rtk.seeds"], told.info.status) == ("trial-0000", "FINISHED")
    assert main(["compare", "--sweep", "s", "--output", str(tmp_path), "--json"]) == 0
    records = {one["number"]: one for one in json.loads(capsys.readouterr().out)["runs"]}
    assert records[0]["replicates"]["val/accuracy"] == reached
    assert main(["compare", "--sweep", "s", "--output", str(tmp_path)]) == 0
    assert " ± " in capsys.readouterr().out
