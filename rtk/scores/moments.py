"""Means, second moments and percentiles of large matrices: in chunks, sums in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rtk.scores.predictions import Predictions

CHUNK = 8192

# What is taken of a chunk of rows (N, D): (N, any width).
OfRows = Callable[[Tensor], Tensor]


def row_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching consecutive rows of tensors of equal length, `CHUNK` at a time."""
    return zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True)


def group_means(
    values: Tensor, groups: Tensor, num_groups: int, of: OfRows = Tensor.double
) -> tuple[Tensor, Tensor]:
    """Means (G, D) float64 of the rows of `values` (N, D) by group (N,), and the counts (G,).

    An empty group has mean zero. `of` is applied to a chunk of rows before it is summed.
    """
    width = of(values[:1]).shape[1]
    sums = torch.zeros(num_groups, width, dtype=torch.float64, device=values.device)
    for rows, group in row_chunks(values, groups):
        sums.index_add_(0, group, of(rows).double())
    counts = torch.bincount(groups, minlength=num_groups)
    return sums / counts.clamp_min(1).unsqueeze(1), counts


def correct_class(predictions: Predictions) -> Tensor:
    """Class (N,) of correctly classified images, C for the others: a group that callers drop."""
    correct = predictions.logits.argmax(dim=1) == predictions.known_labels
    return torch.where(correct, predictions.known_labels, predictions.width[0])


def wrong_class(predictions: Predictions) -> Tensor:
    """Label (N,) of wrongly classified images, C for the others: a group that callers drop."""
    correct = predictions.logits.argmax(dim=1) == predictions.known_labels
    return torch.where(correct, predictions.width[0], predictions.known_labels)


def mean_row(values: Tensor, of: OfRows = Tensor.double) -> Tensor:
    """Mean (D,) float64 of the rows of `values` (N, D), or of what `of` makes of them."""
    groups = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    return group_means(values, groups, 1, of)[0][0]


def second_moment(
    values: Tensor, centres: Tensor, groups: Tensor | None = None, of: OfRows = Tensor.double
) -> Tensor:
    """Mean of (v - c)(v - c)ᵀ (D, D) float64 over the rows v of `values` (N, D); zero where there is no row.

    Args:
        values: (N, D).
        centres: (D,) one centre for all, or (G, D) one per group.
        groups: (N,) group of each row, with centres (G, D); rows of other groups are left out.
        of: applied to a chunk of rows first; D is the width of what it returns.
    """
    if groups is None:
        groups = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    width, count = centres.shape[-1], 0
    centres = centres.double().reshape(-1, width)
    total = torch.zeros(width, width, dtype=torch.float64, device=values.device)
    for rows, group in row_chunks(values, groups):
        kept = group < len(centres)
        deviation = of(rows[kept]).double() - centres[group[kept]]
        total.addmm_(deviation.T, deviation)
        count += len(deviation)
    return total / max(count, 1)


def evenly_spread(values: Tensor, count: int) -> Tensor:
    """At most `count` rows of `values`, spread evenly over them; the values themselves where all are kept."""
    if len(values) <= count:
        return values
    return values[torch.arange(count, device=values.device) * len(values) // count]


def percentile_of(values: Tensor, percentile: float) -> Tensor:
    """Percentile of all entries, linearly interpolated, as a scalar tensor; needs a copy of `values`."""
    # torch.quantile refuses more than 16 million entries.
    return values.new_tensor(np.percentile(values.cpu().numpy(), percentile))


def column_percentiles(values: Tensor, percentiles: Sequence[float]) -> Tensor:
    """Percentiles (P, D) of every column of `values` (N, D), linearly interpolated; copies some at a time."""
    columns = max(1, CHUNK * CHUNK // len(values))
    parts = [np.percentile(part.cpu().numpy(), percentiles, axis=0) for part in values.split(columns, dim=1)]
    return values.new_tensor(np.concatenate(parts, axis=1))


def narrowed(values: Tensor, like: Tensor) -> Tensor:
    """Values in the type of others, those beyond its range at the end of it."""
    limits = torch.finfo(like.dtype)
    return values.clamp(limits.min, limits.max).to(like.dtype)
