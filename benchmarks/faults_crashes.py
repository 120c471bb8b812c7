"""A process that saves one checkpoint after the other and is killed at any moment, again and again."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from rtk.runs.checkpoint_faults import mend
from rtk.runs.checkpoints import prune
from rtk.train.checkpoint import load_checkpoint
from rtk.train.saving import save_checkpoint
from rtk.train.state import TrainState
from rtk.train.zero_shards import ReplicatedShards

WIDTH = 256  # of a layer: half a megabyte of weights and moments
SPREAD = 0.15  # seconds in which the kill may come: several saves


def uniform_state(value: float) -> TrainState:
    """A state every number of which is the same, so that a checkpoint of parts of two is found out."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(value)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, value)
    engine = SimpleNamespace(module=model, optimizer=optimizer, zero_optimization_stage=lambda: 0)
    return TrainState(engine, ReplicatedShards(engine), {}, [], [])


def save_on(alias: Path, step: int, told: Connection) -> None:
    """Save for ever, and tell of each save when it begins and when it is done."""
    torch.set_num_threads(1)
    while True:
        step += 1
        told.send((step, False))
        content = {"step": step, "world_size": 1, "num_classes": 2, "metrics": None}
        save_checkpoint(alias, uniform_state(step), content)
        told.send((step, True))
        prune(alias.parent)


def crash(count: int, seed: int) -> list[dict[str, Any]]:
    """Kill a process that saves so many times; the next one goes on in the folder as it was left.

    Returns:
        One row: how many crashes there were, how many found a save unfinished (`saving`), how many left the
        old or the new checkpoint `whole`, and how many needed an earlier one (`mended`).
    """
    draw, fork = random.Random(seed), multiprocessing.get_context("fork")
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        alias, step = Path(folder, "last"), 0
        for _ in range(count):
            heard, told = fork.Pipe(duplex=False)
            process = fork.Process(target=save_on, args=(alias, step, told))
            process.start()
            while heard.recv() != (step + 1, True):  # one is there
                pass
            time.sleep(draw.uniform(0, SPREAD))
            process.kill()
            process.join()
            told.close()
            ends.append(_end(alias, _events(heard)))
            step = ends[-1]["step"]
    return [
        {"crashes": count} | {key: sum(end[key] for end in ends) for key in ("saving", "whole", "mended")}
    ]


def _events(heard: Connection) -> list[tuple[int, bool]]:
    events = []
    try:
        while True:
            events.append(heard.recv())
    except EOFError:
        return events


def _end(alias: Path, events: list[tuple[int, bool]]) -> dict[str, Any]:
    """What a crash has left, given what was told since the first save was done."""
    said, state = mend(alias), uniform_state(-1)
    with torch.no_grad():
        step = int(load_checkpoint(alias, state)["step"])
    moments = [kept["momentum_buffer"] for kept in state.engine.optimizer.state.values()]
    tensors = [*state.engine.module.parameters(), *state.engine.module.buffers(), *moments]
    same = all(bool((tensor == step).all()) for tensor in tensors)
    done = [number for number, is_done in events if is_done] or [step]
    begun = [number for number, _ in events] or [step]
    in_time = max(done) <= step <= max(begun)
    return {
        "step": step,
        "saving": max(begun) > max(done),
        "whole": same and in_time,
        "mended": said is not None,
    }
