"""Population-based training: a trial that is behind goes on from the weights of one that is ahead."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from rtk.config import load_config
from rtk.config.search_space import base_config, parse_space
from rtk.runs.checkpoint_faults import check_whole
from rtk.runs.checkpoints import has_checkpoint, resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.train.best import keep_best
from rtk.train.checkpoint import FORMAT
from rtk.tune.population import shared_checkpoint, take_over
from rtk.tune.results import importances, read_trials
from rtk.tune.study import open_study
from rtk.tune.sweep import launch_sweep

GOOD, HOPELESS = 0.05, 1e-7
TREE = {
    "objectives": {"val/accuracy": "max"},
    "trials": 3,
    "scheduler": {"name": "pbt", "quantile": 0.5},
    "fixed": {
        "data.train_rows": 512,
        "model.width": 4,
        "schedule.name": "constant",
        "train.duration": "4ep",
        "train.threads": 1,
        "train.workers": 1,
    },
    "warm_starts": [{"optimizer.lr": GOOD}, {"optimizer.lr": HOPELESS}, {"optimizer.lr": HOPELESS}],
    "space": {"optimizer.lr": {"loguniform": [HOPELESS, 0.0625]}},
}


def a_run(folder, number: int, steps: list[int]) -> RunFolder:
    """A trial whose last checkpoint is of the last of its steps."""
    run = RunFolder.create(load_config("digits_ce", [f"output={folder}"]), f"trial-{number:04d}")
    for step in steps:
        run.append_metrics(step, step / 8, {"val/accuracy": number + step / 100})
    last = run.checkpoints / "last"
    last.mkdir()
    (last / "state.json").write_text(
        json.dumps({"format": FORMAT, "step": steps[-1], "metrics": {"val/accuracy": 1.0}})
    )
    (last / "shard-00000.safetensors").write_bytes(b"weights of %d" % number)
    return run


def test_weights_and_values_are_taken_over_and_the_history_says_so(tmp_path):
    ahead, behind = a_run(tmp_path, 3, [8, 16]), a_run(tmp_path, 4, [8, 16, 24])
    values = {"optimizer.lr": 0.04, "objective.rat.mode": "at"}
    config = load_config("digits_ce", [f"output={tmp_path}", "optimizer.lr=0.04", "objective.rat.mode=at"])
    before = behind.config()
    own = shared_checkpoint(behind, 3)
    for nothing_new in (None, own):
        assert take_over(behind, nothing_new, config, values) == before
    assert take_over(behind, shared_checkpoint(ahead, 2), config, values) == config == behind.config()
    taken = resolve_checkpoint(behind.checkpoints / "last")
    assert (taken / "shard-00000.safetensors").read_bytes() == b"weights of 3"
    check_whole(taken)
    keep_best(behind, "val/accuracy")  # the other's metrics are not its own
    assert not has_checkpoint(behind.checkpoints / "best")
    rows = [(row["step"], row["epoch"], row["key"], row["value"]) for row in behind.read_metrics()]
    assert rows == [
        (8, 1.0, "val/accuracy", 4.08),
        (16, 2.0, "val/accuracy", 4.16),
        (16, 2.0, "pbt/taken_from", 3.0),
        (16, 2.0, "pbt/optimizer.lr", 0.04),
    ]
    assert (behind.path / "config.until-16.yaml").exists()


@pytest.mark.slow
def test_hopeless_trials_take_over_weights_and_go_on_with_values_near_theirs(ray_session, tmp_path):
    space = parse_space(TREE, "here")
    config = base_config(space, "digits_ce", [f"output={tmp_path}"])
    sweep = launch_sweep(space, config, "s")
    trials = read_trials(sweep)
    assert [trial.attributes["state"] for trial in trials] == ["complete"] * 3
    changed = [trial.run for trial in trials if list(trial.run.path.glob("config.until-*.yaml"))]
    assert changed
    for run in changed:
        check_history(run, space)
    assert importances(open_study(sweep.path, space), space) == {}
    assert not list(sweep.path.glob("tune/*/checkpoint_*"))


def check_history(run: RunFolder, space) -> None:
    """Its values changed where it took over, and each row is there once."""
    rows = run.read_metrics()
    assert max(Counter((row["step"], row["key"]) for row in rows).values()) == 1
    rates = [row for row in rows if row["key"] == "pbt/optimizer.lr"]
    donors = [row["value"] for row in rows if row["key"] == "pbt/taken_from"]
    assert len(rates) == len(donors) == len(list(run.path.glob("config.until-*.yaml")))
    assert int(run.name[-1]) not in donors
    assert run.config().optimizer.lr == rates[-1]["value"]
    assert all(space.space["optimizer.lr"].contains(row["value"]) for row in rates)
    before = [r["value"] for r in rows if r["key"] == "train/lr" and r["step"] <= rates[0]["step"]]
    after = [r["value"] for r in rows if r["key"] == "train/lr" and r["step"] > rates[-1]["step"]]
    assert set(after) == {rates[-1]["value"]}
    assert before[0] != after[0]
