"""The live objects of a run on one rank, and what of them a checkpoint carries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtk.objectives import ActiveTerm
from rtk.optim.method import Method
from rtk.train.zero_shards import EngineShards


@dataclass(frozen=True)
class TrainState:
    """The live objects whose state a checkpoint carries, on one rank.

    Attributes:
        engine: DeepSpeed's.
        shards: where it keeps the weights.
        methods: what is kept of every weight, by name, in the order in which they act.
        terms: terms of the loss, in the order in which they are back-propagated.
        buffers: BatchNorm's, averaged over the ranks where each moves them by its own images.
        concatenate: all views in one forward pass.
    """

    engine: Any
    shards: EngineShards
    methods: dict[str, Method]
    terms: list[ActiveTerm]
    buffers: list[Tensor]
    concatenate: bool = False

    def terms_at(self, step: int) -> list[ActiveTerm]:
        """The terms that are on in a step."""
        return [term for term in self.terms if term.is_on(step)]

    def ascent_at(self, step: int) -> Method | None:
        """The method that takes a second pass in a step."""
        return next((method for method in self.methods.values() if method.ascends_at(step)), None)

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Context of a step's first pass: where the methods want its gradients."""
        with ExitStack() as stack:
            for method in self.methods.values():
                stack.enter_context(method.first_pass())
            yield

    @contextmanager
    def evaluated(self) -> Iterator[bool]:
        """Context in which the model has the weights that are evaluated; gives whether they are others."""
        contexts = [
            context for method in self.methods.values() if (context := method.evaluated()) is not None
        ]
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            yield bool(contexts)


def per_weight_tensors(state: TrainState) -> dict[str, list[Tensor]]:
    """Weights, moments and what the methods keep, by kind, each a list that runs along the shards."""
    kinds = {"weight": state.shards.weights()}
    moments = state.shards.base_optimizer().state
    owners = state.shards.owners()
    kept = {owner: _moments(moments.get(owner, {}), owner) for owner in owners}
    # The optimiser has none of a parameter that no loss has reached yet.
    for name in dict.fromkeys(name for of_owner in kept.values() for name in of_owner):
        kinds[name] = [kept[owner].get(name, torch.zeros_like(owner)) for owner in owners]
    for method in state.methods.values():
        kinds |= method.tensors()
    return kinds


def optimizer_name(state: TrainState) -> str:
    """Class of the base optimiser."""
    return type(state.shards.base_optimizer()).__name__


def _moments(kept: dict[str, Any], owner: Tensor) -> dict[str, Tensor]:
    """What the optimiser keeps of every weight of an owner."""
    return {
        name: value
        for name, value in kept.items()
        if torch.is_tensor(value) and value.numel() == owner.numel() and value.dim() > 0
    }


def optimizer_counters(state: TrainState) -> dict[str, float]:
    """Optimiser counters that are the same for every weight that has been reached (Adam's `step`)."""
    moments = state.shards.base_optimizer().state
    for owner in state.shards.owners():
        kept = moments.get(owner, {})
        if kept:
            per_weight = _moments(kept, owner)
            return {k: float(v) for k, v in kept.items() if v is not None and k not in per_weight}
    return {}


def common_tensors(state: TrainState) -> dict[str, Tensor]:
    """The live tensors that are the same on every rank, by `kind|name`: buffers, and what the terms keep."""
    tensors = {f"model|{name}": value for name, value in saved_buffers(state.engine.module).items()}
    for method in state.methods.values():
        tensors |= method.common_tensors()
    for term in state.terms:
        kept = {} if term.state is None else term.state.tensors()
        tensors |= {f"term|{term.name}|{name}": value for name, value in kept.items()}
    return tensors


def saved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state, by name; the live tensors."""
    state = model.state_dict(keep_vars=True)
    return {name: state[name] for name, _ in model.named_buffers() if name in state}
