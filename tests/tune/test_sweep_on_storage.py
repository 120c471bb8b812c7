"""Sweeps on object storage: the machine that starts one and those of its trials share no folder."""

from __future__ import annotations

import pytest

from rtk.config.search_space import base_config, parse_space
from rtk.runs.sweep import Sweep
from rtk.runs.working_copy import local_folder, store_of
from rtk.tune import sweep as sweeps
from rtk.tune.results import read_trials
from rtk.tune.sweep import launch_sweep, resume_sweep
from tests.object_storage import in_folder

pytestmark = pytest.mark.slow

PLUGIN = "from rtk import scores\nscores.register(scores.Score('mine', lambda logits: logits.amax(1)))\n"


def space(workers: int):
    fixed = {
        "data.train_rows": 256,
        "model.width": 4,
        "train.duration": "2ep",
        "train.threads": 1,
        "train.workers": workers,
    }
    tree = {
        "objectives": {"val/accuracy": "max"},
        "trials": 1,
        "replicates": 2,
        "scheduler": {"name": "none"},
        "fixed": fixed,
        "space": {"optimizer.lr": {"loguniform": [0.01, 0.1]}},
    }
    return parse_space(tree, "x")


@pytest.mark.parametrize("workers", [1, 2])
def test_trials_reach_their_folders_from_nodes_that_do_not_see_them(
    ray_session, bucket, monkeypatch, tmp_path, workers, fresh_tables
):
    monkeypatch.setattr(sweeps, "is_own_session", lambda: False)  # as if others had started the session
    (tmp_path / "mine.py").write_text(PLUGIN)
    given = [f"output={in_folder(bucket, 'runs')}", f"plugins=[{tmp_path / 'mine.py'}]"]
    # The driver's working copies are in a folder of the test's own; the trials' processes have another.
    sweep = launch_sweep(space(workers), base_config(space(workers), "digits_ce", given), "s")
    (trial,) = read_trials(sweep)
    assert trial.attributes["state"] == "complete", trial.attributes
    assert len(trial.replicates["val/accuracy"]) == 2

    there = store_of(local_folder(in_folder(bucket, "runs"))).entries()
    for name in ("trial-0000", "trial-0000-seed1"):
        assert {f"s/{name}/metrics.csv", f"s/{name}/checkpoints/last.json"} <= there.keys()

    checkpoints = sweep.path / "trial-0000-seed1" / "checkpoints"
    assert not list(
        checkpoints.glob("*/shard-*")
    )  # they did not pass here; the first seed's are MLflow's by now

    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "desktop"))
    resumed = resume_sweep(Sweep.open(in_folder(bucket, "runs/s")), {"trials": 2})
    assert [trial.attributes["state"] for trial in read_trials(resumed)] == ["complete"] * 2
