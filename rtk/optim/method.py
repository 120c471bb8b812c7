"""What a method that keeps something of every weight between steps looks like to the rest of rtk.

The training step, checkpoints (of any ZeRO stage and number of ranks) and `rtk plan` loop over the methods
of a run (`rtk.optim.methods`) by what is said here, and name none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.optim import Optimizer

from rtk.config.sections import Section
from rtk.optim.shards import Shards

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig


class Method:
    """A method at work; each overrides what it needs.

    Attributes:
        averaged: whether `ascend` takes gradients that are averaged over the ranks.
        second_pass_share: share of a batch's images, of all ranks together, that the second pass learns from:
            those whose loss rose most.
    """

    averaged: bool = True
    second_pass_share: float = 1.0

    def tensors(self) -> dict[str, list[Tensor]]:
        """The live tensors that it keeps of the owned weights, like `Shards.weights()`, by kind."""
        return {}

    def common_tensors(self) -> dict[str, Tensor]:
        """The live small tensors that it keeps whole on every rank, by `kind|name`."""
        return {}

    def resume(self, saved: Collection[str], step: int) -> None:
        """Make ready for a checkpoint: it will be read into `tensors()` and `common_tensors()`.

        Args:
            saved: kinds that the checkpoint holds.
            step: number of steps that had been taken.
        """

    def first_pass(self) -> AbstractContextManager[None]:
        """Context of a step's first pass, which may move the weights, and moves them back."""
        return nullcontext()

    def ascends_at(self, step: int) -> bool:
        """Whether the step with this number (from 0) takes a second pass, at weights moved by `ascend`."""
        return False

    def ascend(self) -> None:
        """Move the weights for the second pass, from the gradients of the first."""

    def restore(self) -> None:
        """Move the weights back after the second pass."""

    @contextmanager
    def ascended(self) -> Iterator[None]:
        """Context of the second pass: the weights are moved, and moved back whatever happens."""
        self.ascend()
        try:
            yield
        finally:
            self.restore()

    def before_step(self) -> None:
        """Take in, or change, the averaged gradients that the optimiser's step is about to take."""

    def after_step(self) -> None:
        """Take in, or change, the weights after the optimiser's step."""

    def evaluated(self) -> AbstractContextManager[None] | None:
        """Context in which the model computes with the weights that are evaluated; None: those it trains."""
        return None


@dataclass(frozen=True)
class MethodSetup:
    """What a method is built from.

    Attributes:
        model: the module that is trained.
        optimizer: the base optimiser.
        shards: where the weights live.
        own_shards: all weights with this rank's own gradients, before they are averaged.
        steps_per_epoch: optimiser steps in an epoch.
    """

    model: nn.Module
    optimizer: Optimizer
    shards: Shards
    own_shards: Callable[[], Shards]
    steps_per_epoch: int


def _no_bytes(config: RunConfig) -> int:
    return 0


@dataclass(frozen=True)
class MethodRow:
    """A method in the table.

    Attributes:
        name: of its block in the config.
        off: how a config says that it is off, for messages.
        build: the method of a run; None where it is off.
        bytes_per_weight: bytes that it keeps of an owned weight between steps, 0 where it is off.
        first_pass_bytes: bytes that it keeps of a weight during the first pass.
        second_pass_bytes: bytes that it keeps of a weight during a second pass, 0 where it takes none.
        kinds: what it may keep of every weight: the kind's name in checkpoints, and what it is in words.
        block: class of its block, where `RunConfig` does not have it already.
    """

    name: str
    off: str
    build: Callable[[RunConfig, MethodSetup], Method | None]
    bytes_per_weight: Callable[[RunConfig], int]
    first_pass_bytes: Callable[[RunConfig], int] = _no_bytes
    second_pass_bytes: Callable[[RunConfig], int] = _no_bytes
    kinds: dict[str, str] = field(default_factory=dict)
    block: type[Section] | None = None
