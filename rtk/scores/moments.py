"""Means, second moments and percentiles of large matrices: in chunks, sums in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from rtk.scores.predictions import Predictions

CHUNK = 8192


def row_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching consecutive rows of tensors of equal length, `CHUNK` at a time."""
    return zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True)


def group_means(
    values: Tensor, groups: Tensor, num_groups: int, of: Callable[[Tensor], Tensor] = Tensor.double
) -> tuple[Tensor, Tensor]:
    """Means (G, D) float64 of the rows of `values` (N, D) by group (N,), and the counts (G,).

    An empty group has mean zero. `of` is applied to a chunk of rows before it is summed.
    """
    sums = torch.zeros(num_groups, values.shape[1], dtype=torch.float64, device=values.device)
    for rows, group in row_chunks(values, groups):
        sums.index_add_(0, group, of(rows).double())
    counts = torch.bincount(groups, minlength=num_groups)
    return sums / counts.clamp_min(1).unsqueeze(1), counts


def correct_class(predictions: Predictions) -> Tensor:
    """Class (N,) of correctly classified images, C for the others: a group that callers drop."""
    correct = predictions.logits.argmax(dim=1) == predictions.known_labels
    return torch.where(correct, predictions.known_labels, predictions.width[0])


def mean_row(values: Tensor) -> Tensor:
    """Mean (D,) float64 of the rows of `values` (N, D)."""
    means, _ = group_means(values, torch.zeros(len(values), dtype=torch.int64, device=values.device), 1)
    return means[0]


def second_moment(values: Tensor, centres: Tensor, groups: Tensor | None = None) -> Tensor:
    """Mean of (v - c)(v - c)ᵀ (D, D) float64 over the rows v of `values` (N, D).

    Args:
        values: (N, D).
        centres: (D,) one centre for all, or (G, D) one per group.
        groups: (N,) group of each row, with centres (G, D).
    """
    if groups is None:
        groups = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    centres = centres.double().reshape(-1, values.shape[1])
    total = torch.zeros(values.shape[1], values.shape[1], dtype=torch.float64, device=values.device)
    for rows, group in row_chunks(values, groups):
        deviation = rows.double() - centres[group]
        total.addmm_(deviation.T, deviation)
    return total / len(values)


def percentile_of(values: Tensor, percentile: float) -> Tensor:
    """Percentile of all entries, linearly interpolated, as a scalar tensor; needs a copy of `values`."""
    # torch.quantile refuses more than 16 million entries.
    return values.new_tensor(np.percentile(values.cpu().numpy(), percentile))
