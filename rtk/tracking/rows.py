"""Rows of `metrics.csv` as MLflow takes them, and what tells the new ones from those that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rtk.config.yaml_files import read_mapping
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import SWEEP_FILE, sweep_of
from rtk.tracking.names import mlflow_key


def with_epochs(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows, and for each step of training or validation one with its epoch."""
    last = -1
    for row in rows:
        if row["key"].startswith(("train/", "val/")) and row["step"] > last:
            last = row["step"]
            yield {**row, "key": "epoch", "value": row["epoch"]}
        yield row


def mark(row: dict[str, Any], by_time: bool) -> float:
    """What grows from row to row of a key.

    A resumed run writes the steps after its checkpoint anew, with the same values: they go by the step, so
    that none is sent twice. Evaluations may be repeated at an earlier step: they go by the time.
    """
    repeats = not by_time and row["key"].startswith(("train/", "val/", "epoch"))
    return row["step"] if repeats else row["time"]


def is_of_a_population(run: RunFolder) -> bool:
    """Whether a run may take over another one's weights, and write its steps anew with other values."""
    sweep = sweep_of(run)
    if sweep is None:
        return False
    tree = read_mapping(sweep.path / SWEEP_FILE)
    return bool(tree["space"]["scheduler"]["name"] == "pbt")


def as_metric(row: dict[str, Any]) -> Any:
    """MLflow's form of a row."""
    from mlflow.entities import Metric

    return Metric(mlflow_key(row["key"]), row["value"], int(row["time"] * 1000), row["step"])
