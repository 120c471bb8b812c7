"""Runs to send to MLflow, and what MLflow then holds of them."""

from __future__ import annotations

from pathlib import Path

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.tracking.mirror import Mirror


def new_run(output: Path, uri: str | None, name: str | None = None) -> RunFolder:
    overrides = [f"output={output}", *([f"tracking.uri={uri}"] if uri else [])]
    run = RunFolder.create(load_config("digits_ce", overrides), name)
    run.write_json("environment.json", {"packages": {"torch": "2"}, "data": {"train": "abc"}})
    return run


def append(run: RunFolder, steps) -> None:
    for step in steps:
        run.append_metrics(step, step / 10, {"train/lr": 1 / (step + 1), "val/aurc": step})


def histories(run: RunFolder) -> dict[str, list[int]]:
    """Steps of every metric that MLflow holds of a run, in the order of its rows."""
    mirror = Mirror(run)
    client, run_id = mirror._connect(), mirror._state()["run_id"]
    keys = client.get_run(run_id).data.metrics
    return {key: sorted(metric.step for metric in client.get_metric_history(run_id, key)) for key in keys}


def check_whole(run: RunFolder, steps) -> None:
    assert histories(run) == {key: list(steps) for key in ("train/lr", "val/aurc", "epoch")}
