"""What the ranks tell each other of a step, and when the host reads it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rtk.runtime.ranks import mean_over_ranks_, world_size


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite on some rank."""


@dataclass(frozen=True)
class StepDone:
    """What came of a step, the same on every rank.

    Attributes:
        losses: mean of every term over all ranks' images, at the weights of the first pass.
        asked: what rank 0 was asked for meanwhile; 0: nothing.
    """

    losses: dict[str, float]
    asked: int = 0


class Agreement:
    """What all ranks know of a step, on its way from the device to the host.

    Args:
        step: number of the update, from 0.
        names: of the losses.
        kept: names of those that are reported.
        values: the mean losses and the mean of what was asked, float32 (len(names) + 1,), on the device.
    """

    def __init__(self, step: int, names: Sequence[str], kept: Sequence[str], values: Tensor) -> None:
        self.step, self.names, self.kept = step, names, kept
        self.values, self.arrived = values, None
        if values.is_cuda:  # copied as soon as it is there, while the host goes on
            self.values = torch.empty_like(values, device="cpu", pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.arrived = torch.cuda.Event()
            self.arrived.record()

    def read(self) -> StepDone:
        """Wait for the numbers, and check them.

        Raises:
            NonFiniteLossError: on every rank, naming the step and the term.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        *found, share = self.values.tolist()
        for name, value in zip(self.names, found, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(f"step {self.step + 1}: loss term {name!r} is not finite")
        losses = dict(zip(self.names, found, strict=True))
        return StepDone({name: losses[name] for name in self.kept}, round(share * world_size()))


def agree(
    losses: dict[str, Tensor],
    kept: Sequence[str],
    buffers: Sequence[Tensor] = (),
    asked: int = 0,
    step: int = 0,
) -> Agreement:
    """What the ranks have to tell each other in a step, in one message: each one costs a wait for the last.

    Args:
        losses: of every term on this rank, scalars; one rank's NaN or infinity makes it so on all of them.
        kept: names of the losses that are reported.
        buffers: of this rank's model; they become their means over the ranks.
        asked: of rank 0; 0 on the others.
        step: number of the update, from 0.
    """
    values = [loss.float() for loss in losses.values()]
    means = torch.stack([*values, torch.full_like(values[0], asked)])
    mean_over_ranks_([means, *buffers])
    return Agreement(step, list(losses), kept, means)


class StepsUnderWay:
    """Steps whose numbers the host has not read, and what is to be said of them once it has.

    Args:
        report: called with a step's number, its mean losses, learning rate and seconds waited for data.
    """

    def __init__(self, report: Callable[[int, dict[str, float], float, float], None]) -> None:
        self.report = report
        self.steps: deque[tuple[Agreement, float, float]] = deque()

    def add(self, agreement: Agreement, rate: float, waited: float) -> None:
        """Put a step at the end."""
        self.steps.append((agreement, rate, waited))

    def read(self, left: int = 0) -> int:
        """Read all but the last `left` steps; the greatest of what was asked in them.

        Raises:
            NonFiniteLossError: on every rank, as `Agreement.read`.
        """
        asked = 0
        while len(self.steps) > left:
            agreement, rate, waited = self.steps.popleft()
            done = agreement.read()
            self.report(agreement.step, done.losses, rate, waited)
            asked = max(asked, done.asked)
        return asked
