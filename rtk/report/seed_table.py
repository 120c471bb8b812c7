"""Runs of several seeds in a table: a row each, and mean and standard deviation of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rtk.report.comparison_table import cell, heading


@dataclass(frozen=True)
class SeedRow:
    """A run in the table.

    Attributes:
        front: what is said of it before its metrics.
        metrics: as fractions, by name.
        counts: whether it belongs to the mean.
    """

    front: Sequence[str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: bool = True


def seed_table(front: Sequence[str], rows: Sequence[SeedRow], metrics: Sequence[str]) -> list[list[str]]:
    """The table, headings first; a last row has mean ± standard deviation where two runs or more count.

    Args:
        front: headings of what is said of the runs.
        rows: the runs.
        metrics: names of the columns that follow.
    """
    table = [[*front, *map(heading, metrics)]]
    table += [
        [*row.front, *(cell(m, [row.metrics[m]] if m in row.metrics else []) for m in metrics)]
        for row in rows
    ]
    counted = [row.metrics for row in rows if row.counts]
    if len(counted) > 1:
        values = ([own[metric] for own in counted if metric in own] for metric in metrics)
        cells = [cell(metric, own) for metric, own in zip(metrics, values, strict=True)]
        table.append(["mean ± std", *[""] * (len(front) - 1), *cells])
    return table
