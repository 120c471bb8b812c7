"""Arithmetic of the ascent step, on lists of tensors."""

from __future__ import annotations

import functools

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


def take_off_average_(gradient: Tensor, average: Tensor, sigma: float, lmbda: float) -> None:
    """Turn a gradient g into F-SAM's direction, and move its average m on.

    The direction is g - sigma * m; m becomes lmbda * m + (1 - lmbda) * g (Li et al. 2024, algorithm 1).

    Args:
        gradient: g, of any shape; becomes the direction.
        average: m, of the same shape and dtype.
        sigma: share of the average that is taken off.
        lmbda: decay of the average.
    """
    # By parts, for a shard may be as large as all weights.
    for g, m in zip(_parts(gradient), _parts(average), strict=True):
        direction = torch.sub(g, m, alpha=sigma)
        m.lerp_(g, 1 - lmbda)
        g.copy_(direction)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views that make up a tensor, of about `PART` elements each; rows, so that any strides will do."""
    rows = torch.atleast_1d(tensor)
    return rows.split(max(1, PART * len(rows) // max(1, tensor.numel())))
