"""`rtk evaluate NAME` of a group of seeds: what its runs have come to together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rtk.commands.output import print_aligned
from rtk.runtime.console import complain

if TYPE_CHECKING:
    from rtk.runs.folder import RunFolder


def group_summary(runs: Sequence[RunFolder], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`mean` and `std` of the headline metrics over the runs of a group, by name.

    Both are empty where the runs were not measured alike, which `unlike` says in a line each.
    """
    from rtk.report.likeness import unlike_runs
    from rtk.report.tables import HEADLINE
    from rtk.runs.results import mean_and_std

    differing = unlike_runs({run.name: run for run in runs}, HEADLINE)
    summaries = [] if differing else [one["summary"] for one in results.values()]
    return {**mean_and_std(summaries), "unlike": differing}


def print_group(name: str, results: Mapping[str, Mapping[str, Any]], unlike: Sequence[str]) -> None:
    """Print a row for each run, and their mean ± standard deviation where they were measured alike."""
    from rtk.report.comparison_table import TEST_METRICS
    from rtk.report.seed_table import SeedRow, seed_table

    rows = [SeedRow([run], one["summary"], not unlike) for run, one in results.items()]
    metrics = [key for key in TEST_METRICS if any(key in row.metrics for row in rows)]
    print(f"\n{name}, {len(rows)} seeds")
    print_aligned(seed_table(["run"], rows, metrics))
    if unlike:
        title = "no mean: these runs were not measured on the same"
        complain("\n  ".join([title, *unlike]))
