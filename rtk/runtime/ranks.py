"""Small helpers around torch.distributed that also work with one process and no process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def max_over_ranks(values: list[int], device: torch.device) -> list[int]:
    """Elementwise maximum of small integers over the ranks."""
    tensor = torch.tensor(values, dtype=torch.int64, device=device)
    if dist.is_initialized():
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return [int(value) for value in tensor.tolist()]


def mean_over_ranks_(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, in place."""
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum of a tensor over the ranks; the given one may be changed."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (R * n, ...) of all ranks, in rank order, on every rank; each has the same number of them."""
    if world_size() == 1:
        return rows
    rows = rows.contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    return torch.cat(parts)


def take_rows(rows: Tensor, chosen: Tensor) -> Tensor:
    """This rank's equal part (k / R, ...) of chosen rows of all ranks', in rank order.

    Args:
        rows: (n, ...), the same number on each of the R ranks.
        chosen: ascending indices int64 (k,) into all R * n rows, the same on every rank; R divides k.
    """
    if world_size() == 1:
        return rows[chosen]
    part = len(chosen) // world_size()
    owners = chosen // len(rows)
    takers = torch.arange(len(chosen), device=chosen.device) // part
    own = owners == rank()
    sent = takers[own].bincount(minlength=world_size()).tolist()
    received = owners[takers == rank()].bincount(minlength=world_size()).tolist()
    taken = rows.new_empty((part, *rows.shape[1:]))
    dist.all_to_all_single(taken, rows[chosen[own] - rank() * len(rows)], received, sent)
    return taken


def gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Values of all ranks, in rank order, on every rank; by a group of all of them, or the default one."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group)
    return gathered
