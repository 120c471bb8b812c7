"""What training has come to: validations, the best epoch and the speed, from a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rtk.config.metric_names import VALIDATION
from rtk.runs.folder import RunFolder

RATE = "train/images_per_second"


@dataclass(frozen=True)
class Trained:
    """A run's training.

    Attributes:
        best_epoch: epoch of the best checkpoint, from 1; None before the first validation.
        best: its validation metrics, as fractions.
        images_per_second: over all training steps, validation left out; None before the first are logged.
    """

    best_epoch: float | None
    best: dict[str, float] | None
    images_per_second: float | None


def read_trained(run: RunFolder) -> Trained:
    """Read it."""
    rows, best = run.read_metrics(), run.read_json("best.json")
    speed = mean_speed([row for row in rows if row["key"] == RATE])
    if best is None:
        return Trained(None, None, speed)
    step = best.pop("step")
    epoch = next((row["epoch"] for row in rows if row["step"] == step), None)
    return Trained(epoch, best, speed)


def validations(run: RunFolder) -> dict[int, dict[str, float]]:
    """Validation metrics by the step that they are of, the first first."""
    by_step: dict[int, dict[str, float]] = {}
    for row in run.read_metrics():
        if row["key"].startswith(VALIDATION):
            by_step.setdefault(row["step"], {})[row["key"]] = row["value"]
    return dict(sorted(by_step.items()))


def last_validation(run: RunFolder) -> dict[str, float]:
    """Metrics of the last one; empty before the first."""
    return next(reversed(validations(run).values()), {})


def mean_speed(rows: Sequence[dict[str, Any]]) -> float | None:
    """All images over all time, from rows `step` and `value` (images/s since the row before), by step."""
    steps = [row["step"] for row in rows]
    lengths = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    times = [length / row["value"] for length, row in zip(lengths, rows, strict=True) if row["value"] > 0]
    return sum(lengths) / sum(times) if times else None
