"""The live objects of a run on one rank, and what of them a checkpoint carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtk.optim import SharpnessAware, WeightAverage
from rtk.train.zero_shards import EngineShards


@dataclass(frozen=True)
class TrainState:
    """The live objects whose state a checkpoint carries, on one rank."""

    engine: Any
    shards: EngineShards
    sharpness: SharpnessAware | None
    average: WeightAverage | None
    buffers: list[Tensor]
    local_ascent: bool = False  # SAM along each rank's own gradient
    concatenate: bool = False  # all views in one forward pass


def per_weight_tensors(state: TrainState) -> dict[str, list[Tensor]]:
    """Weights, optimiser moments and averages by kind, each a list that runs along the shards."""
    kinds = {"weight": state.shards.weights()}
    moments = state.shards.base_optimizer().state
    keys = state.shards.optimizer_keys()
    for name in (
        [k for k, v in moments.get(keys[0], {}).items() if _is_per_weight(v, keys[0])] if keys else []
    ):
        kinds[name] = [moments[key][name] for key in keys]
    if state.sharpness is not None and state.sharpness.gradient_average is not None:
        kinds["gradient_average"] = state.sharpness.gradient_average
    if state.average is not None:
        kinds["average"] = state.average.weights
    return kinds


def optimizer_name(state: TrainState) -> str:
    """Class of the base optimiser."""
    return type(state.shards.base_optimizer()).__name__


def _is_per_weight(value: Any, key: Tensor) -> bool:
    return torch.is_tensor(value) and value.numel() == key.numel() and value.dim() > 0


def optimizer_counters(state: TrainState) -> dict[str, float]:
    """Optimiser counters that are the same for every weight (Adam's `step`)."""
    keys = state.shards.optimizer_keys()
    first = state.shards.base_optimizer().state.get(keys[0], {}) if keys else {}
    return {k: float(v) for k, v in first.items() if v is not None and not _is_per_weight(v, keys[0])}


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name; the live tensors."""
    state = model.state_dict(keep_vars=True)
    return {name: state[name] for name, _ in model.named_buffers() if name in state}
