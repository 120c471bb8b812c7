"""Runs in which the host reads a step's losses some steps later, as it does beside an accelerator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.of_run import RunSets
from rtk.models import build_model
from rtk.runs.folder import RunFolder
from rtk.runtime.ranks import barrier, rank
from rtk.train import worker
from rtk.train.job import TrainingData, TrainingJob
from rtk.train.shard_reader import load_saved_weights

EPOCHS, STEPS, BATCH = 3, 4, 8
CONFIG: dict[str, Any] = {
    "name": "late",
    "data": {"train": "random images", "image_size": 8},
    "model": {"name": "resnet18", "width": 2},
    "sharpness": {"variant": "fsam", "rho": 0.1},
    "averaging": {"kind": "ema", "decay": 0.9, "ramp": 5},
    "optimizer": {"lr": 0.05},
    "train": {
        "batch_size": BATCH,
        "precision": "fp32",
        "duration": f"{EPOCHS}ep",
        "workers": 2,
        "zero_stage": 1,
    },
}


def data() -> TrainingData:
    """Images of noise, and a few to validate on."""
    generator = np.random.default_rng(0)

    def images(count: int) -> ImageArrays:
        pixels = generator.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
        return ImageArrays(pixels, generator.integers(0, 3, count), np.arange(count))

    return TrainingData(RunSets(train=images(STEPS * BATCH), validation=images(BATCH)))


def runs(folder: str) -> dict[str, dict[str, Any]]:
    """How runs end by what is done to them: their outcome, last checkpoint and rows of metrics."""
    config = build_config({**CONFIG, "output": folder})
    found = {"at once": _run(config, folder, "at once", 0)}
    found["late"] = _run(config, folder, "late", 2)
    found["stopped"] = _run(config, folder, "stopped", 2, stop=5)
    found["resumed"] = _run(config, folder, "stopped", 2)
    found["spoiled"] = _run(config, folder, "spoiled", 2, spoil=5)
    found["spoiled at the end"] = _run(config, folder, "spoiled at the end", 2, spoil=2 * STEPS - 1)
    found["spoiled before a stop"] = _run(config, folder, "spoiled before a stop", 2, spoil=5, stop=4)
    return found


def _run(
    config: RunConfig, folder: str, name: str, left: int, stop: int | None = None, spoil: int | None = None
) -> dict[str, Any]:
    """A run that is told to stop while it takes a step, or that has a loss of NaN in one on rank 1."""
    run, real = RunFolder(Path(folder) / name), worker.train_step
    resume = run.path.exists()
    barrier()  # before rank 0 makes it
    run.path.mkdir(exist_ok=True)
    (run.path / "stop").unlink(missing_ok=True)
    job = TrainingJob(str(run.path), config.model_dump(mode="json"), 3, STEPS * BATCH, resume=resume)

    def step(state: Any, views: Any, number: int, *more: Any) -> Any:
        if number == stop and rank() == 0:
            (run.path / "stop").touch()
        if number == spoil and rank() == 1:
            views["clean"].images.fill_(torch.nan)
        return real(state, views, number, *more)

    worker.train_step, worker.steps_left = step, lambda device: left
    outcome = worker.run_job(job, data(), torch.device("cpu"), lambda report: None)
    worker.train_step = real
    barrier()
    return {**outcome, "rows": _rows(run), "weights": _weights(run, config)}


def _rows(run: RunFolder) -> list[tuple[int, str, float]]:
    """Metrics that no clock has a part in."""
    rows = [row for row in run.read_metrics() if row["key"].startswith(("val/", "train/l"))]
    return [(row["step"], row["key"], row["value"]) for row in rows]


def _weights(run: RunFolder, config: RunConfig) -> dict[str, torch.Tensor]:
    """Weights and running statistics of the last checkpoint, as trained and averaged."""
    found = {}
    for averaged in (False, True):
        model = build_model(config.model, 3, 8)
        load_saved_weights(run.checkpoints / "last", model, averaged)
        found |= {f"{name} {averaged}": value for name, value in model.state_dict().items()}
    return found
