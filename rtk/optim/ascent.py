"""Arithmetic of the ascent step, on lists of tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

PART = 2**22  # elements worked on at a time where a temporary copy is needed


def sum_of_squares(tensors: list[Tensor]) -> Tensor:
    """Sum over all elements of all tensors, which may differ in dtype and device.

    Returns:
        A scalar of the widest of their dtypes, on the first one's device.
    """
    norms = torch._foreach_norm(tensors) if tensors else [torch.zeros(())]
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


def take_off_average_(gradients: list[Tensor], averages: list[Tensor], sigma: float, lmbda: float) -> None:
    """Turn gradients g into F-SAM's directions, and move their averages m on.

    The direction is g - sigma * m; m becomes lmbda * m + (1 - lmbda) * g (Li et al. 2024, algorithm 1).

    Args:
        gradients: g, of any shapes; become the directions.
        averages: m, of the same shapes and dtypes.
        sigma: share of the average that is taken off.
        lmbda: decay of the average.
    """
    for g, m in zip(_portions(gradients), _portions(averages), strict=True):
        directions = torch._foreach_sub(g, m, alpha=sigma)
        torch._foreach_lerp_(m, g, 1 - lmbda)
        torch._foreach_copy_(g, directions)


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
