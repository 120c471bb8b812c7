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


def take_rows(rows: Tensor, chosen: Tensor, takers: Tensor) -> Tensor:
    """Rows of all ranks that this rank takes, in the order in which they are chosen.

    Args:
        rows: (n, ...), the same number on each rank.
        chosen: indices int64 (k,) into the rows of all ranks, in rank order; the same on every rank.
        takers: rank that takes each, int64 (k,).
    """
    if world_size() == 1:
        return rows[chosen]
    owners = chosen // len(rows)
    own, taken = owners == rank(), takers == rank()
    # Rows leave in the order of their takers, and arrive in that of their owners.
    leaving = chosen[own][takers[own].argsort(stable=True)] - rank() * len(rows)
    places = owners[taken].argsort(stable=True)
    received, sent = (
        ranks.bincount(minlength=world_size()).tolist() for ranks in (owners[taken], takers[own])
    )
    arrived = rows.new_empty((len(places), *rows.shape[1:]))
    dist.all_to_all_single(arrived, rows[leaving].contiguous(), received, sent)
    return torch.empty_like(arrived).index_copy_(0, places, arrived)


def gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Values of all ranks, in rank order, on every rank; by a group of all of them, or the default one."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group)
    return gathered
