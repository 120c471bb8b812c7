"""What sharpness-aware steps and weight averages need to know of where the weights live.

Alone, the "shard" is every parameter; under DeepSpeed it is the part that the rank owns
(`rtk.train.zero_shards`). The mathematics in this package is written against this one interface.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer


class Shards(Protocol):
    """The fp32 weights that this rank owns, with their gradients.

    Attributes:
        averaged: whether the gradients are averaged over the ranks before they are asked for.
    """

    averaged: bool

    def weights(self) -> list[Tensor]:
        """Owned weights: tensors of any shape, changed in place by the caller."""

    def gradients(self) -> list[Tensor]:
        """Gradients averaged over ranks (where `averaged`), one for each of `weights()`, of the same shape.

        The caller may change them in place; `clear_gradients` lets go of what they were made from.
        """

    def publish(self) -> None:
        """Make the model compute with the present `weights()`."""

    def clear_gradients(self) -> None:
        """Forget the gradients, so that the next backward pass starts from nothing."""

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """Sum of a scalar over the ranks that own different shards."""


class LocalShards:
    """Unsharded weights of a torch optimiser."""

    averaged = True

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def _parameters(self) -> list[Tensor]:
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def weights(self) -> list[Tensor]:
        """Every parameter that takes a gradient."""
        return [parameter.data for parameter in self._parameters()]

    def gradients(self) -> list[Tensor]:
        """Gradients; zeros for a parameter that the loss does not reach."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters()]

    def publish(self) -> None:
        """Nothing to do: the model uses these very tensors."""

    def clear_gradients(self) -> None:
        """Set every gradient to None."""
        self.optimizer.zero_grad(set_to_none=True)

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """The value itself: one process owns all."""
        return value
