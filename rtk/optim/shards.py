"""What sharpness-aware steps and weight averages need to know of where the weights live.

Alone, the "shard" is every parameter; under DeepSpeed it is the part that the rank owns
(`rtk.train.zero_shards`). The mathematics in this package is written against this one interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class Fragment:
    """A run of one parameter's elements inside one of this rank's shards.

    Attributes:
        name: of the parameter, the same on every rank.
        offset: first element, in the flattened parameter.
        numel: number of elements.
        shard: index into `weights()`.
        start: first element, in the flattened shard.
    """

    name: str
    offset: int
    numel: int
    shard: int
    start: int

    def of(self, tensors: list[Tensor]) -> Tensor:
        """Its elements (numel,) in tensors of this rank's shards, as a view."""
        return tensors[self.shard].reshape(-1)[self.start : self.start + self.numel]


class Shards(Protocol):
    """The fp32 weights that this rank owns, with their gradients.

    Attributes:
        averaged: whether the gradients are averaged over the ranks before they are asked for.
    """

    averaged: bool

    def owners(self) -> list[Tensor]:
        """What the weights belong to, always the same objects: what is kept of a weight is filed by them."""

    def weights(self) -> list[Tensor]:
        """Owned weights, one for each of `owners()`: tensors of any shape, changed in place by the caller."""

    def fragments(self) -> list[Fragment]:
        """Which parameters, or parts of them, the weights are."""

    def gradients(self) -> list[Tensor]:
        """Gradients averaged over ranks (where `averaged`), one for each of `weights()`, of the same shape.

        They are at least fp32, whose range and digits norms and averages need. The caller may change them in
        place; `clear_gradients` lets go of what they were made from.
        """

    def add_to_gradients(self, tensors: list[Tensor], scale: float) -> None:
        """Add scale * tensor to the averaged gradients that the optimiser's step is about to take.

        Args:
            tensors: one for each of `weights()`, of the same shape.
            scale: their factor.
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

    def owners(self) -> list[Tensor]:
        """Every parameter that takes a gradient now."""
        groups = self.optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.requires_grad]

    def weights(self) -> list[Tensor]:
        """Their data."""
        return [parameter.data for parameter in self.owners()]

    def fragments(self) -> list[Fragment]:
        """Every parameter whole, named by its place in the optimiser."""
        return [Fragment(str(index), 0, p.numel(), index, 0) for index, p in enumerate(self.owners())]

    def gradients(self) -> list[Tensor]:
        """Gradients; zeros for a parameter that the loss does not reach."""
        return [wide_gradient(parameter) for parameter in self.owners()]

    def add_to_gradients(self, tensors: list[Tensor], scale: float) -> None:
        """Add to every gradient; a parameter that the loss does not reach is left alone."""
        add_to_gradients(self.owners(), tensors, scale)

    def publish(self) -> None:
        """Nothing to do: the model uses these very tensors."""

    def clear_gradients(self) -> None:
        """Set every gradient to None."""
        self.optimizer.zero_grad(set_to_none=True)

    def sum_over_shards(self, value: Tensor) -> Tensor:
        """The value itself: one process owns all."""
        return value


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """What is kept or summed of a tensor has this dtype: fp32 for fp16 and bf16, else its own."""
    return torch.promote_types(tensor.dtype, torch.float32)


def wide_gradient(parameter: Tensor) -> Tensor:
    """A parameter's gradient in at least fp32; zeros where there is none."""
    dtype = wide_dtype(parameter)
    return torch.zeros_like(parameter, dtype=dtype) if parameter.grad is None else parameter.grad.to(dtype)


def add_to_gradients(parameters: list[Tensor], tensors: list[Tensor], scale: float) -> None:
    """Add scale * tensor to the gradient of every parameter that has one; sparse ones become dense."""
    for parameter, tensor in zip(parameters, tensors, strict=True):
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
        parameter.grad.add_(tensor, alpha=scale)


def dense(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors, sparse ones as dense."""
    return [each.to_dense() if each.is_sparse else each for each in tensors]


def zeros_of(weight: Tensor) -> Tensor:
    """Zeros for what is kept of a weight."""
    return torch.zeros_like(weight, dtype=wide_dtype(weight))
