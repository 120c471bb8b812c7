"""What rank 0 says about a run while it trains: rows of `metrics.csv` and `progress.json`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import psutil
import torch

from rtk.runs.folder import RunFolder

LOG_EVERY_STEPS = 10
GIB = 2**30
PROGRESS_EVERY_SECONDS = 0.2


class Reporter:
    """Averages what the steps report and writes it at intervals.

    Args:
        run: the run's folder.
        steps_per_epoch: optimiser steps in an epoch.
        total_steps: optimiser steps in the run.
        batch_size: images per step over all workers.
        first_step: step at which this process starts (0, or where it resumes).
    """

    def __init__(
        self, run: RunFolder, steps_per_epoch: int, total_steps: int, batch_size: int, first_step: int
    ) -> None:
        self.run, self.steps_per_epoch, self.total_steps = run, steps_per_epoch, total_steps
        self.batch_size, self.first_step = batch_size, first_step
        self.started = self.interval_started = time.monotonic()
        self.last_progress = 0.0
        self.process = psutil.Process()
        self.validation: dict[str, float] = {}
        self._reset()

    def _reset(self) -> None:
        self.steps, self.waited, self.losses = 0, 0.0, defaultdict[str, list[float]](list)
        self.interval_started = time.monotonic()

    def step(self, step: int, losses: Mapping[str, float], rate: float, waited: float) -> None:
        """Take in a finished step: 0-based index, losses by term, learning rate, seconds waited for data."""
        self.steps += 1
        self.waited += waited
        for name, value in losses.items():
            self.losses[name].append(value)
        is_last = step + 1 == self.total_steps or (step + 1) % self.steps_per_epoch == 0
        if self.steps >= LOG_EVERY_STEPS or is_last:
            self._log(step + 1, rate)
        self._show(step + 1, "training", force=is_last)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take in validation metrics after `step` steps."""
        self.validation = dict(metrics)
        self.run.append_metrics(step, step / self.steps_per_epoch, metrics)
        self._show(step, "training", force=True)
        self._reset()  # the time that validation took is not training time

    def phase(self, step: int, name: str) -> None:
        """Say what is going on beside training."""
        self._show(step, name, force=True)

    def _log(self, step: int, rate: float) -> None:
        seconds = time.monotonic() - self.interval_started
        values = {f"train/loss/{name}": fmean(of_steps) for name, of_steps in self.losses.items()}
        values["train/lr"] = rate
        values["train/images_per_second"] = self.steps * self.batch_size / seconds
        values["train/data_wait"] = self.waited / seconds
        values |= system_metrics(self.process)
        self.run.append_metrics(step, step / self.steps_per_epoch, values)
        self.latest = values
        self._reset()

    latest: Mapping[str, float] = {}

    def _show(self, step: int, phase: str, force: bool) -> None:
        now = time.monotonic()
        if not force and now - self.last_progress < PROGRESS_EVERY_SECONDS:
            return
        self.last_progress = now
        done = step - self.first_step
        left = (now - self.started) / done * (self.total_steps - step) if done else None
        content: dict[str, Any] = {"phase": phase, "step": step, "total_steps": self.total_steps}
        content |= {"epoch": step / self.steps_per_epoch, "epochs": self.total_steps / self.steps_per_epoch}
        content |= {"seconds_left": left, **self.latest, **self.validation}
        self.run.write_json("progress.json", content)


def system_metrics(process: psutil.Process) -> dict[str, float]:
    """Use of rank 0's process and its node: CPU in percent of one core since the last call, memory in GiB."""
    metrics = {
        "system/cpu_percent": process.cpu_percent(),
        "system/memory_gib": process.memory_info().rss / GIB,
        "system/node_memory_percent": psutil.virtual_memory().percent,
    }
    if torch.cuda.is_available():
        metrics["system/gpu_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    return metrics
