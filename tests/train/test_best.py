"""Keeping the best checkpoint, also after a kill between the save of an epoch and the copy."""

from __future__ import annotations

import json

import pytest

from rtk.config import load_config
from rtk.runs.checkpoints import STATE, has_checkpoint, new_folder, publish, resolve_checkpoint, seal
from rtk.runs.folder import RunFolder
from rtk.train.best import keep_best
from rtk.train.checkpoint import FORMAT, read_state


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))


def save(run, step, metrics):
    folder = new_folder(run.checkpoints / "last", step)
    (folder / STATE).write_text(json.dumps({"format": FORMAT, "step": step, "metrics": metrics}))
    publish(run.checkpoints / "last", folder, {STATE: seal(folder / STATE)}, {"step": step})


def best_step(run):
    step = read_state(run.checkpoints / "best")["step"]
    assert run.read_json("best.json")["step"] == step
    return step


@pytest.mark.parametrize(
    ("select", "values", "best"),
    [
        ("val/accuracy", [0.5, 0.7, 0.6], 2),
        ("val/accuracy", [0.5, 0.5], 2),
        ("val/aurc", [0.5, 0.7, 0.4], 3),
        ("val/nll", [0.5, float("nan"), 0.6], 1),
        ("val/nll", [float("nan"), 0.9], 2),
    ],
)
def test_the_best_epoch_is_kept(run, select, values, best):
    for step, value in enumerate(values, 1):
        save(run, step, {select: value})
        keep_best(run, select)
    assert best_step(run) == best


def test_what_a_kill_left_undone_is_done_once(run):
    save(run, 1, {"val/accuracy": 0.5})
    keep_best(run, "val/accuracy")
    save(run, 2, {"val/accuracy": 0.6})  # killed here
    keep_best(run, "val/accuracy")
    assert best_step(run) == 2
    note = run.path / "best.json"
    before = note.stat().st_mtime_ns
    keep_best(run, "val/accuracy")
    assert note.stat().st_mtime_ns == before


def test_a_checkpoint_within_an_epoch_has_no_metrics(run):
    keep_best(run, "val/accuracy")  # nothing is there yet
    save(run, 1, None)
    keep_best(run, "val/accuracy")
    assert not has_checkpoint(run.checkpoints / "best")


def test_a_run_of_an_earlier_version_goes_on(run):
    """Its `last` is a folder, and the copy to `best` was never made."""
    last = run.checkpoints / "last"
    last.mkdir()
    (last / STATE).write_text(json.dumps({"format": FORMAT, "step": 5, "metrics": {"val/accuracy": 0.5}}))
    keep_best(run, "val/accuracy")
    assert best_step(run) == read_state(last)["step"] == 5
    assert (last / STATE).exists()  # until there are two others
    assert resolve_checkpoint(last).name == "00001-step-5"
    save(run, 6, {"val/accuracy": 0.4})
    keep_best(run, "val/accuracy")
    assert (best_step(run), read_state(last)["step"]) == (5, 6)
