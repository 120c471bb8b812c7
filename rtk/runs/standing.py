"""How a run stands right now, from its folder: how far, how fast, its memory, its ranks, its checkpoint."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rtk.runs.checkpoints import CheckpointError, read_manifest, resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runs.vitals import Rank, read_vitals, seconds_since, stragglers

FIGURES = {
    "images_per_second": "train/images_per_second",
    "data_wait": "train/data_wait",
    "memory_gib": "system/memory_gib",
    "gpu_memory_gib": "system/gpu_memory_gib",
    "node_memory_percent": "system/node_memory_percent",
}


@dataclass(frozen=True)
class Standing:
    """A run as it stands.

    Attributes:
        run: its name.
        status: as in `rtk.runs.listing.Listed`.
        phase: what it does (`training`, `validating`, ...); None before the first step.
        step: optimiser steps done.
        steps: of how many; None where it is not known.
        epoch: epochs done.
        epochs: of how many; None where it is not known.
        seconds_left: by its mean speed; None where it does not train.
        figures: by the names of `FIGURES`, of rank 0 over the last steps; those that are known.
        host: the machine of its driver.
        heard: seconds since that said that it lives.
        ranks: of a running run, as in `vitals.json`.
        stragglers: ranks that the others wait for, and why.
        checkpoint_step: step of the last checkpoint; None where there is none.
        checkpoint_age: seconds since it was written; None where that is not known.
        notice: the last thing that a worker or the driver had to say.
    """

    run: str
    status: str
    phase: str | None
    step: int
    steps: int | None
    epoch: float
    epochs: float | None
    seconds_left: float | None
    figures: dict[str, float]
    host: str | None
    heard: float | None
    ranks: list[Rank]
    stragglers: dict[int, str]
    checkpoint_step: int | None
    checkpoint_age: float | None
    notice: str | None


def read_standing(run: RunFolder) -> Standing:
    """How a run stands; what is known of its checkpoints is brought from where it lies."""
    pull_checkpoints(run.checkpoints)
    status, vitals = status_of(run), read_vitals(run)
    is_running = status == "running"
    progress = run.read_json("progress.json") or {}
    latest = _latest(run) if "step" not in progress else progress
    ranks = vitals.get("ranks", []) if is_running else []
    checkpoint_step, checkpoint_age = last_checkpoint(run)
    return Standing(
        run=run.name,
        status=status,
        phase=progress.get("phase") if is_running else None,
        step=latest.get("step", 0),
        steps=latest.get("total_steps"),
        epoch=latest.get("epoch", 0.0),
        epochs=latest.get("epochs"),
        seconds_left=progress.get("seconds_left") if is_running else None,
        figures={name: latest[key] for name, key in FIGURES.items() if key in latest},
        host=vitals.get("host"),
        heard=seconds_since(vitals) if vitals else None,
        ranks=ranks,
        stragglers=stragglers(ranks),
        checkpoint_step=checkpoint_step,
        checkpoint_age=checkpoint_age,
        notice=next(reversed(run.read_notices()), None),
    )


def _latest(run: RunFolder) -> dict[str, Any]:
    """What `metrics.csv` says last, where there is no `progress.json`: the run is being started again."""
    rows = run.read_metrics()
    last = max(rows, key=lambda row: row["step"], default=None)
    return {row["key"]: row["value"] for row in rows} | (
        {} if last is None else {"step": last["step"], "epoch": last["epoch"]}
    )


def last_checkpoint(run: RunFolder) -> tuple[int | None, float | None]:
    """Step and age in seconds of the last checkpoint that is known here."""
    with suppress(CheckpointError, ValueError, TypeError, KeyError):
        manifest = read_manifest(resolve_checkpoint(run.checkpoints / "last"))
        saved = datetime.fromisoformat(manifest["saved"]).timestamp()
        return int(manifest["step"]), max(0.0, time.time() - saved)
    return None, None
