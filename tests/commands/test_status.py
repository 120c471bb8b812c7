"""`rtk status`: what it makes of a run's folder, wherever that is looked at from."""

from __future__ import annotations

import json
import socket
import time

import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.config.search_space import parse_space
from rtk.runs.checkpoints import new_folder, publish, seal
from rtk.runs.folder import RunFolder, held
from rtk.runs.listing import status_of
from rtk.runs.standing import read_standing
from rtk.runs.sweep import Sweep
from rtk.runs.vitals import FILE, LOST_SECONDS, stragglers, write_vitals
from rtk.runs.working_copy import push
from rtk.tracking.status import note_status
from tests.object_storage import in_folder

RANK = {"rank": 0, "host": "node", "step": 12, "samples": 30, "data_wait": 0.02, "collective": 0.5}
RANK |= {"memory_gib": 1.5, "silent": 0.0}
PROGRESS = {
    "phase": "training",
    "step": 12,
    "total_steps": 48,
    "epoch": 1.0,
    "epochs": 4.0,
    "seconds_left": 90.0,
}
PROGRESS |= {"train/images_per_second": 1234.0, "train/data_wait": 0.03, "system/memory_gib": 1.5}


def run_in(output: str, name: str = "a") -> RunFolder:
    """A run that is at step 12 of 48, with a checkpoint of step 8, an hour old."""
    run = RunFolder.create(load_config("digits_ce", [f"output={output}"]), name)
    run.write_json("progress.json", PROGRESS)
    note_status(run, "RUNNING")
    folder = new_folder(run.checkpoints / "last", 8)
    (folder / "state.json").write_text("{}")
    publish(run.checkpoints / "last", folder, {"state.json": seal(folder / "state.json")}, {"step": 8})
    return run


def heard(run: RunFolder, host: str, ago: float = 0.0, ranks: list | None = None) -> None:
    run.write_json(FILE, {"host": host, "time": time.time() - ago, "ranks": ranks or []})


def test_a_running_run_shows_step_speed_ranks_and_checkpoint(tmp_path, capsys):
    run = run_in(tmp_path)
    slow = {**RANK, "rank": 1, "data_wait": 0.4, "gpu_memory_gib": 7.0, "silent": 70.0}
    write_vitals(run, [RANK, slow, {**RANK, "rank": 2}])
    run.add_notice("a node is lost")
    with held(run.path, "run"):
        assert main(["status", "a", "--output", str(tmp_path)]) == 0
        said = capsys.readouterr().out
        assert main(["status", "a", "--output", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert said.splitlines()[0] == f"a: training, driver on {socket.gethostname()}, heard of 0 s ago"
    assert (
        "step: 12 of 48, epoch 1 of 4, 1 min 30 s left\nimages/s: 1,234\ndata wait: 3%\nmemory: 1.5 GiB"
        in said
    )
    assert "last checkpoint: step 8, " in said
    assert "rank 1 on node: step 12, data wait 40%" in said
    assert "memory 1.5 GiB, GPU 7.0 GiB, silent for 1 min 10 s" in said
    assert "straggler: rank 1 waits 40% of the time for data, the median rank 2%" in said
    assert "last notice: a node is lost" in said
    assert (told["status"], told["checkpoint_step"], told["figures"]["images_per_second"]) == (
        "running",
        8,
        1234.0,
    )
    assert told["checkpoint_age"] < 60


def test_all_shows_a_row_a_run_and_the_trials_of_sweeps(tmp_path, capsys):
    run = run_in(tmp_path)
    tree = {"objectives": {"val/aurc": "min"}, "trials": 3, "space": {"optimizer.lr": {"uniform": [0.1, 1]}}}
    sweep = Sweep.create(parse_space(tree, "here"), run.config(), "s")
    note_status(RunFolder.create(sweep.config(), "trial-0000"), "FINISHED")
    assert main(["status", "--all", "--output", str(tmp_path), "--watch"]) == 0  # nothing runs: it ends
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["run", "state", "step"]
    assert {tuple(row.split()[:2]) for row in rows} == {("a", "lost"), ("trial-0000", "finished")}
    assert main(["status", "s", "--output", str(tmp_path), "--json"]) == 0
    assert [one["run"] for one in json.loads(capsys.readouterr().out)] == ["trial-0000"]


@pytest.mark.parametrize(
    ("host", "ago", "status"),
    [
        ("elsewhere", 0.0, "running"),
        ("elsewhere", LOST_SECONDS + 1, "lost"),
        (socket.gethostname(), 0.0, "lost"),
    ],
)
def test_a_driver_on_another_machine_is_known_by_its_signs_of_life(tmp_path, host, ago, status):
    run = run_in(tmp_path)
    heard(run, host, ago)
    assert status_of(run) == status
    assert (read_standing(run).phase is None) == (status == "lost")
    assert main(["runs", "rm", str(run.path), "--yes"]) == (2 if status == "running" else 0)


def test_a_run_on_object_storage_is_seen_from_any_machine(bucket, tmp_path, monkeypatch, capsys):
    run = run_in(in_folder(bucket, "runs"))
    heard(run, "elsewhere", ranks=[RANK])
    push(run.path)
    monkeypatch.setenv("RTK_CACHE", str(tmp_path / "another machine"))
    assert main(["status", in_folder(bucket, "runs/a")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("a: training, driver on elsewhere")
    assert "last checkpoint: step 8, " in said
    assert "rank 0 on node: step 12" in said


def test_a_run_without_progress_stands_where_its_metrics_end(tmp_path):
    run = run_in(tmp_path)
    run.remove_json("progress.json")
    run.append_metrics(10, 0.5, {"train/images_per_second": 100.0})
    run.append_metrics(20, 1.0, {"train/images_per_second": 200.0})
    standing = read_standing(run)
    assert (standing.step, standing.epoch, standing.figures) == (20, 1.0, {"images_per_second": 200.0})


def test_stragglers_are_those_that_the_others_wait_for():
    even = [{**RANK, "rank": rank} for rank in range(4)]
    assert stragglers(even) == {}
    assert list(stragglers([*even, {**RANK, "rank": 4, "data_wait": 0.2}])) == [4]
    assert "the others wait for it" in stragglers([*even, {**RANK, "rank": 4, "collective": 0.1}])[4]
    assert stragglers([*even, {**RANK, "rank": 4, "collective": 0.1, "samples": 3}]) == {}
    assert stragglers([{**RANK, "collective": 0.1}]) == {}


@pytest.mark.parametrize("words", [[], ["a", "--all"], ["a", "--watch", "--json"]])
def test_what_cannot_be_asked_for(words, capsys):
    assert main(["status", *words]) == 2
