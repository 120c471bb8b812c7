"""Arithmetic of the ascent step, on lists of tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

PART = 2**22  # elements worked on at a time where a temporary copy is needed


def sum_of_squares(tensors: list[Tensor], factors: list[Tensor] | None = None) -> Tensor:
    """Sum over all elements of all tensors, which may differ in dtype and device; of each times its factor.

    Args:
        tensors: of any shapes.
        factors: of the same shapes; None: all are 1.

    Returns:
        A scalar of the widest of their dtypes, on the first one's device.
    """
    norms = [torch.zeros(())]
    if factors is not None:
        pairs = zip(_portions(tensors), _portions(factors), strict=True)
        norms = [norm for pair in pairs for norm in torch._foreach_norm(torch._foreach_mul(*pair))] or norms
    elif tensors:
        norms = list(torch._foreach_norm(tensors))
    dtype = functools.reduce(torch.promote_types, [norm.dtype for norm in norms])
    return torch.stack([norm.to(norms[0].device, dtype) for norm in norms]).square().sum()


def dot(some: list[Tensor], others: list[Tensor]) -> Tensor:
    """Sum over all elements of the products of two equally long lists of tensors of the same shapes.

    Returns:
        A scalar of the widest of their dtypes, on the first one's device.
    """
    pairs = zip(some, others, strict=True)
    products = [torch.dot(a.reshape(-1), b.reshape(-1).to(a)) for a, b in pairs] or [torch.zeros(())]
    dtype = functools.reduce(torch.promote_types, [product.dtype for product in products])
    return torch.stack([product.to(products[0].device, dtype) for product in products]).sum()


def move_averages_(averages: list[Tensor], directions: list[Tensor], sigma: float, lmbda: float) -> None:
    """Move F-SAM's gradient averages m on, from the directions d = g - sigma * m, in place.

    m becomes lmbda * m + (1 - lmbda) * g (Li et al. 2024, algorithm 1), where g = d + sigma * m.

    Args:
        averages: m, of any shapes.
        directions: d, of the same shapes and dtypes.
        sigma: share of the average that was taken off.
        lmbda: decay of the average.
    """
    if not averages:
        return
    if sigma != 1:
        torch._foreach_mul_(averages, lmbda + (1 - lmbda) * sigma)
    torch._foreach_add_(averages, directions, alpha=1 - lmbda)


def _portions(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Views that make up some tensors, about `PART` elements at a time: a shard may hold all weights."""
    portion: list[Tensor] = []
    size = 0
    for tensor in tensors:
        for part in _parts(tensor) if tensor.numel() > PART else (tensor,):
            if portion and size + part.numel() > PART:
                yield portion
                portion, size = [], 0
            portion.append(part)
            size += part.numel()
    if portion:
        yield portion


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of `PART` elements at most, where rows are no longer; rows, so that any strides will do."""
    return tensor.split(max(1, PART * len(tensor) // tensor.numel()))
