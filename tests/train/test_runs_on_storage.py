"""Runs on object storage: the machine that starts one and those that train share no folder."""

from __future__ import annotations

import json
import threading
import time

import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import local_folder, store_of
from rtk.train.launch import launch_training
from tests.object_storage import in_folder
from tests.train.small_runs import SMALL, difference, resume, train

pytestmark = pytest.mark.slow


@pytest.fixture
def machine(bucket, monkeypatch, tmp_path):
    """Be another machine, whose working copies are its own. Workers of the Ray session have others again."""

    def become(name: str) -> str:
        monkeypatch.setenv("RTK_CACHE", str(tmp_path / name))
        return in_folder(bucket, "runs")

    return become


def stop_at(run: RunFolder, step: int) -> None:
    """Ask a run to stop once it has passed a step."""

    def watch() -> None:
        while (run.read_json("progress.json") or {}).get("step", 0) < step:
            time.sleep(0.01)
        run.request_stop()

    threading.Thread(target=watch, daemon=True).start()


def test_a_run_is_started_stopped_resumed_and_used_on_machines_that_share_no_folder(
    ray_session, machine, tmp_path, capsys, photo
):
    plain = train(load_config("digits_demo", [f"output={tmp_path}", *SMALL, "train.zero_stage=3"]))

    output = machine("laptop")
    config = load_config("digits_demo", [f"output={output}", *SMALL, "train.zero_stage=3"])
    run = RunFolder(local_folder(output) / "a")
    stop_at(run, 6)
    assert launch_training(config, "a").status == "interrupted"
    assert {row["key"] for row in run.read_metrics()} >= {"train/lr", "system/checkpoint_seconds"}
    assert not list(run.checkpoints.glob("*/shard-*"))  # the workers' part, which did not pass here
    uri = run.place

    machine("desktop")
    run = RunFolder.open(uri)
    assert json.loads((run.path / "status.json").read_text())["status"] == "KILLED"
    resumed = resume(run)
    assert resumed.status == "finished"
    assert difference(resumed.run, plain.run) == 0.0
    kept = [(row["step"], row["key"]) for row in run.read_metrics() if row["key"].startswith("val/")]
    assert len(kept) == len(set(kept))

    machine("third")
    (tmp_path / "photo.jpg").write_bytes(photo)
    alone = "evaluate.actors=1"  # a process that gets all from the storage
    assert main(["evaluate", uri, "--risk", "0.9", "--scores", "msp", "gram", "--json", alone]) == 0
    machine("fourth")
    assert main(["export", "a", "--output", output, "--no-mlflow"]) == 0
    assert main(["checkpoints", uri, "--verify"]) == 0
    assert main(["runs", "ls", "--output", output]) == 0
    machine("fifth")
    capsys.readouterr()
    assert main(["predict", uri, str(tmp_path / "photo.jpg"), "--jsonl"]) == 0  # a table may break the name
    assert "photo.jpg" in capsys.readouterr().out
    there = store_of(local_folder(output)).entries()
    assert {"a/export/weights.safetensors", "a/evaluation/report.html", "a/status.json"} <= there.keys()
    assert main(["runs", "rm", "a", "--yes", "--output", output]) == 0
    assert store_of(local_folder(output)).entries() == {}
