"""A small run for tests: its settings, what it ends with, and doing something at one of its steps."""

from __future__ import annotations

import json
import threading
import time

import torch

from rtk.models import build_model
from rtk.train.launch import launch_training, resume_training
from rtk.train.shard_reader import load_saved_weights
from tests.train.ranks import workers_forked

SMALL = [
    "model.width=4",
    "data.train_rows=512",  # steps enough that what happens at the sixth happens before the last
    "train.duration=3ep",
    "train.threads=1",
    "train.precision=fp32",
]
# No batch statistics, so that a batch may be cut; no kinks, which would turn rounding into steps.
SMOOTH = ["model.name=timm/test_vit", "model.width=null"]


def train(config):
    with workers_forked():
        return launch_training(config)


def resume(run, *overrides):
    with workers_forked():
        return resume_training(run, list(overrides))


def weights(run, averaged: bool) -> torch.Tensor:
    model = build_model(run.config().model, 8, 32)
    load_saved_weights(run.checkpoints / "last", model, averaged)
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def difference(one, other) -> float:
    return max((weights(one, a) - weights(other, a)).abs().max().item() for a in (True, False))


def when_step(run_folder, step: int, action) -> list:
    """Do something once a run in `run_folder` has passed a step; the list then holds what it returned."""
    done = []

    def watch():
        while True:
            for progress in run_folder.glob("*/progress.json"):
                if json.loads(progress.read_text())["step"] >= step:
                    done.append(action(progress.parent))
                    return
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    return done
