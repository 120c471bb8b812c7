"""`rtk checkpoints`: what there is, whether it is whole, and deleting what nothing needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.runs.checkpoints import STATE, new_folder, point_to, publish, resolve_checkpoint, seal
from rtk.runs.folder import RunFolder, held

OLD = Path(__file__).parents[1] / "old"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    """A run that saved three times, the first the best."""
    run = RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]), "mine")
    for step, accuracy in ((8, 0.9), (16, 0.8), (24, 0.7)):
        folder = new_folder(run.checkpoints / "last", step)
        (folder / STATE).write_text("x" * 1000)
        about = {"step": step, "world_size": 2, "metrics": {"val/accuracy": accuracy}}
        publish(run.checkpoints / "last", folder, {STATE: seal(folder / STATE)}, about)
        if step == 8:
            point_to(run.checkpoints / "best", folder)
    return run


def listed(run, capsys, *options: str, code: int = 0) -> dict:
    assert main(["checkpoints", str(run.path), "--json", *options]) == code
    found: dict = json.loads(capsys.readouterr().out)
    return found


def test_each_has_step_size_metrics_and_what_points_to_it(run, capsys):
    found = listed(run, capsys)["checkpoints"]
    assert [(one["name"], one["aliases"], one["step"], one["workers"]) for one in found] == [
        ("00001-step-8", ["best"], 8, 2),
        ("00002-step-16", [], 16, 2),
        ("00003-step-24", ["last"], 24, 2),
    ]
    assert [one["metrics"]["val/accuracy"] for one in found] == [0.9, 0.8, 0.7]
    assert all(one["bytes"] > 1000 and one["faults"] == [] and not one["verified"] for one in found)
    assert main(["checkpoints", str(run.path), "--verify"]) == 0
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["checkpoint", "is", "step", "saved", "size", "state"]
    assert first.split()[:3] == ["00001-step-8", "best", "8"]
    assert first.endswith("whole")


def test_damage_is_found_by_reading_and_ends_with_1(run, capsys):
    (resolve_checkpoint(run.checkpoints / "last") / STATE).write_text("y" * 1000)
    assert listed(run, capsys)["checkpoints"][-1]["faults"] == []  # as long as it was
    found = listed(run, capsys, "--verify", code=1)["checkpoints"]
    assert [one["faults"] for one in found] == [[], [], ["state.json: not what was written, by its SHA-256"]]
    run.checkpoints.joinpath("best.json").write_text("{")
    assert "best.json: damaged" in listed(run, capsys, code=1)["broken"][0]


def test_pruning_keeps_what_is_pointed_to(run, capsys):
    with held(run.path, "run"):
        assert main(["checkpoints", str(run.path), "--prune"]) == 2
    assert "mine is running, wanted a run that has ended" in capsys.readouterr().err
    assert listed(run, capsys, "--prune")["deleted"] == ["00002-step-16"]
    assert [one["name"] for one in listed(run, capsys)["checkpoints"]] == ["00001-step-8", "00003-step-24"]


def test_nothing_is_pruned_that_a_damaged_run_may_go_on_from(run, capsys):
    (resolve_checkpoint(run.checkpoints / "last") / STATE).unlink()
    assert main(["checkpoints", str(run.path), "--prune"]) == 2
    assert "last is damaged (00003-step-24/state.json: missing)" in capsys.readouterr().err
    assert len(list(run.checkpoints.glob("*-step-*"))) == 3


def test_runs_of_earlier_versions_and_without_any(run, tmp_path, capsys):
    old = RunFolder(Path(shutil.copytree(OLD / "run", tmp_path / "old")))
    found = listed(old, capsys)["checkpoints"]
    assert [one["aliases"] for one in found] == [["best"], ["last"]]
    assert all(one["step"] > 0 for one in found)
    new_folder(run.checkpoints / "last", 32).joinpath(STATE).write_text("killed while it was written")
    assert len(listed(run, capsys)["checkpoints"]) == 3
    shutil.rmtree(run.checkpoints)
    assert main(["checkpoints", str(run.path)]) == 0
    assert capsys.readouterr().out == "no checkpoint yet\n"
