"""Training states every number of which is the same, so that a checkpoint of parts of two is found out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from rtk.runs.checkpoint_faults import mend
from rtk.train.checkpoint import load_checkpoint
from rtk.train.state import TrainState
from rtk.train.zero_shards import ReplicatedShards


def state_of(value: float) -> TrainState:
    """A process without others whose weights, moments and statistics all have one value."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, value)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(value)
    engine = SimpleNamespace(module=model, optimizer=optimizer, zero_optimization_stage=lambda: 0)
    return TrainState(engine, ReplicatedShards(engine), {}, [], [])


def loaded(alias: Path) -> int:
    """The step that a run would go on from, whose every tensor is made sure to be of it."""
    mend(alias)
    state = state_of(-1)
    with torch.no_grad():
        step: int = load_checkpoint(alias, state)["step"]
    moments = [kept["momentum_buffer"] for kept in state.engine.optimizer.state.values()]
    tensors = [*state.engine.module.parameters(), *state.engine.module.buffers(), *moments]
    assert {float(value) for tensor in tensors for value in tensor.detach().reshape(-1)} == {float(step)}
    return step
