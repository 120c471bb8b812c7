"""Nodes that are about to be taken away: one checkpoint for each that has a worker, none for others."""

from __future__ import annotations

import time

import pytest

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.train import leaving, worker
from rtk.train.job import TrainingJob
from rtk.train.leaving import LeavingNodes
from rtk.tune import trial


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]), None)


def beat(run, nodes, ranks):
    for rank, node in enumerate(nodes):
        run.write_json(
            f"ranks/{rank:05d}.json", {"rank": rank, "ranks": ranks, "node": node, "host": f"of-{node}"}
        )


def test_a_checkpoint_is_asked_for_once_for_each_node_of_a_worker(run, monkeypatch, capsys):
    monkeypatch.setattr(leaving, "LOOK_SECONDS", 0.0)
    draining = {}
    monkeypatch.setattr(leaving, "draining_nodes", lambda: draining)
    watch = LeavingNodes(run, 4)
    draining["a"] = time.time() + 119.6
    watch.look()  # before a rank has said where it is
    assert not run.save_requested()
    beat(run, "aabc", 3)  # the fourth is of a larger group, which has been
    draining["c"] = None
    watch.look()
    assert run.save_requested()
    assert run.read_notices()[0].startswith("the node of-a is taken away in 1")
    run.clear_save()
    watch.look()
    assert not run.save_requested()
    draining["b"] = None
    watch.look()
    assert run.save_requested()
    assert run.read_notices()[1:] == ["the node of-b is taken away soon: writing a checkpoint"]
    assert capsys.readouterr().err.splitlines() == run.read_notices()


def test_ray_is_not_asked_all_the_time(run, monkeypatch):
    asked = []
    monkeypatch.setattr(leaving, "draining_nodes", lambda: asked.append(None) or {})
    watch = LeavingNodes(run, 1)
    for _ in range(10):
        watch.look()
    assert not asked


def test_a_trial_that_trains_alone_saves_too(run, monkeypatch):
    asked = []

    def draining():
        asked.append(None)
        if len(asked) == 1:
            raise RuntimeError("Ray is busy")
        return {"a": None}

    def run_job(job, *_):
        beat(job.run, "a", 1)
        until = time.monotonic() + 20
        while not job.run.save_requested() and time.monotonic() < until:
            time.sleep(0.01)
        return {"saved": job.run.save_requested()}

    monkeypatch.setattr(leaving, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(leaving, "draining_nodes", draining)
    monkeypatch.setattr(worker, "run_job", run_job)
    monkeypatch.setattr(trial, "_join_group_of_one", lambda: None)
    job = TrainingJob(str(run.path), run.config().model_dump(mode="json"), 8, 10, resume=False)
    assert trial._train_here(job, None, {"CPU": 1}, print) == {"saved": True}
