"""Runs and sweeps of a folder as a person asks for them: how they stand, how good and how large they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtk.config.errors import ConfigError
from rtk.runs.folder import RunFolder, is_held
from rtk.runs.origin import is_imported
from rtk.runs.results import read_result
from rtk.runs.sweep import SWEEP_FILE, Sweep, read_tree, sweep_of, trials_of
from rtk.runs.trained import last_validation
from rtk.runs.vitals import lives_elsewhere
from rtk.runs.working_copy import size_of

RUNNING = "RUNNING"
STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


@dataclass(frozen=True)
class Listed:
    """A run or a sweep.

    Attributes:
        path: its folder.
        kind: `run` or `sweep`.
        status: `running`, `finished`, `failed`, `interrupted`, `lost` (its process has died), `imported` (rtk
            did not train it), or `unknown`.
        recipe: name of its recipe.
        epoch: of a run, how far it is; of a sweep, the trials that have ended.
        epochs: of how many; None where it is not known.
        metrics: headline metrics of the test and `val/...` of the last validation, as fractions.
        started: when it was started or resumed last, seconds since 1970.
        size: of all its files, bytes.
    """

    path: Path
    kind: str
    status: str
    recipe: str
    epoch: float
    epochs: float | None
    metrics: Mapping[str, float]
    started: float
    size: int

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.time() - self.started


def list_runs(output: Path) -> list[Listed]:
    """Runs and sweeps under a folder, those started first at the top."""
    found = [path for marker in ("config.yaml", SWEEP_FILE) for path in output.glob(f"[!.]*/{marker}")]
    return sorted((read_listed(path.parent.absolute()) for path in found), key=lambda one: one.started)


def read_listed(path: Path) -> Listed:
    """A run or a sweep as it stands now."""
    run, is_sweep = RunFolder(path), (path / SWEEP_FILE).exists()
    epoch, epochs = _trials(run) if is_sweep else _epochs(run)
    return Listed(
        path=path,
        kind="sweep" if is_sweep else "run",
        status=status_of(run),
        recipe=str(read_tree(run).get("name", "–")),
        epoch=epoch,
        epochs=epochs,
        metrics={} if is_sweep else _metrics(run),
        started=(path / (SWEEP_FILE if is_sweep else "config.yaml")).stat().st_mtime,
        size=size_of(path),
    )


def status_of(run: RunFolder) -> str:
    """How a run or a sweep stands; one whose process has died without a word is `lost`."""
    if is_imported(run.path):
        return "imported"
    noted = _noted(run)
    return STATUS.get(noted, "unknown") if noted != RUNNING else "running" if is_running(run) else "lost"


def is_running(run: RunFolder) -> bool:
    """Whether a process trains a run or runs a sweep: here or, by its signs of life, on another machine."""
    folder = sweep_of(run) or run
    return is_held(folder.path) or (_noted(run) == RUNNING and lives_elsewhere(folder))


def _noted(run: RunFolder) -> str:
    return str((run.read_json("status.json") or {}).get("status"))


def _epochs(run: RunFolder) -> tuple[float, float | None]:
    progress = run.read_json("progress.json") or {}
    if "epoch" in progress:
        return progress["epoch"], progress["epochs"]
    return max((row["epoch"] for row in run.read_metrics()), default=0.0), None


def _trials(run: RunFolder) -> tuple[float, float | None]:
    ended = sum(trial.read_json("status.json") is not None for trial in trials_of(run))
    return ended, Sweep(run.path).space().trials


def _metrics(run: RunFolder) -> dict[str, float]:
    metrics: dict[str, Any] = last_validation(run)
    if (run.evaluation / "metrics.json").exists():
        with suppress(ConfigError):  # another version of rtk has written it: there is the rest to show
            metrics |= read_result(run)["summary"]
    return metrics
