"""How far groups of runs lie from a baseline, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rtk.metrics.bootstrap import bootstrap_difference
from rtk.report.evaluated import EvaluatedRun
from rtk.report.paired import paired_difference
from rtk.runs.results import Group


@dataclass(frozen=True)
class Difference:
    """How far a group's mean lies from the baseline's, over the seeds, or the images, that both have.

    Attributes:
        seeds: that both have.
        low: lower end of the 95 % interval of the paired bootstrap.
        high: upper end; the difference is significant where 0 lies outside.
        images: resampled, of two single runs; 0 where the seeds were.
    """

    group: str
    baseline: str
    metric: str
    seeds: int
    difference: float
    low: float
    high: float
    images: int = 0

    @property
    def is_significant(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    @property
    def over(self) -> str:
        """What was resampled, in words."""
        return f"{self.images:,} images" if self.images else f"{self.seeds} seeds"


def differences(groups: Sequence[Group], metrics: Sequence[str]) -> list[Difference]:
    """Every group against the first one.

    With two seeds or more in common the runs are paired by seed and resampled together (paired bootstrap), so
    that what a seed does to both cancels. Of two single runs the test and OOD images are resampled, where
    both were evaluated on the same: that says what other images, not another seed, could have changed.
    """
    if not groups:
        return []
    baseline, *others = groups
    return [
        one
        for group in others
        for one in (*_over_seeds(baseline, group, metrics), *_over_images(baseline, group, metrics))
    ]


def _over_seeds(baseline: Group, group: Group, metrics: Sequence[str]) -> Iterator[Difference]:
    for metric in metrics:
        one, two = (
            {e.seed: e.metrics[metric] for e in g.entries if metric in e.metrics} for g in (baseline, group)
        )
        seeds = sorted(one.keys() & two.keys())
        if len(seeds) >= 2:
            values = [[side[seed] for seed in seeds] for side in (one, two)]
            interval = bootstrap_difference(np.mean, [(values[0],)], [(values[1],)], resamples=5000)
            ends = (interval.estimate, interval.low, interval.high)
            yield Difference(group.label, baseline.label, metric, len(seeds), *ends)


def _over_images(baseline: Group, group: Group, metrics: Sequence[str]) -> Iterator[Difference]:
    runs = [entry.run for one in (baseline, group) for entry in one.entries]
    if len(runs) != 2 or not all((run.evaluation / "metrics.json").exists() for run in runs):
        return
    first, second = (EvaluatedRun.read(run, run.name) for run in runs)
    for metric in metrics:
        found = paired_difference(first, second, metric)
        if found is not None:
            interval, images = found
            ends = (interval.estimate, interval.low, interval.high)
            yield Difference(group.label, baseline.label, metric, 1, *ends, images)


def difference_records(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Differences for programs."""
    return [{**asdict(one), "significant": one.is_significant} for one in found]
