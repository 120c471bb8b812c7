"""`rtk compare`: collect what is asked for, group and sort it, and say what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rtk.config.errors import ConfigError
from rtk.config.search_space import SearchSpace
from rtk.report.comparison_table import shown_metrics, sort_groups, sort_key
from rtk.report.differences import Difference, differences
from rtk.report.likeness import unlike_runs
from rtk.runs.results import (
    Entry,
    Group,
    group_by_seed,
    iterate_metrics,
    read_entry,
    read_experiment,
    select,
)
from rtk.runs.seeds import open_runs


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        groups: from the best to the worst; in the order given where they are not `ranked`.
        metrics: those that are shown.
        differences: of each group from that of the first run given; none where they are not `ranked`.
        given: labels of the groups in the order in which they were given, the baseline's first.
        space: search space where it is a sweep.
        importances: share of each searched key in a sweep's objective.
        unlike: what the metrics were not measured alike on, a line each.
        ranked: whether one may be called better: nothing is unlike, or the user insists.
    """

    title: str
    groups: list[Group]
    metrics: list[str]
    differences: list[Difference]
    given: list[str]
    space: SearchSpace | None
    importances: dict[str, float]
    unlike: list[str] = field(default_factory=list)
    ranked: bool = True


def compare(
    runs: Sequence[str] = (),
    sweep: str | None = None,
    experiment: str | None = None,
    where: str | None = None,
    metrics: Sequence[str] = (),
    sort: str | None = None,
    output: str = "runs",
    force: bool = False,
) -> Comparison:
    """Compare runs, a sweep's trials, or all runs of an experiment: exactly one of the three.

    Args:
        runs: run folders or names, also of a group of seeds; the first one's group is the baseline of the
            differences.
        sweep: name or folder of a sweep.
        experiment: value of `tracking.experiment`.
        where: conditions such as `params.model.width = 8 and metrics.accuracy > 0.9`.
        metrics: columns; none: a handful.
        sort: metric to sort by; None: the sweep's objective, DS-AURC or accuracy.
        output: folder of runs and sweeps.
        force: rank also runs that were not measured on the same.

    Raises:
        ConfigError: naming what was got and what was wanted.
    """
    if sum(map(bool, (runs, sweep, experiment))) != 1:
        raise ConfigError("compare: wanted runs, or --sweep NAME, or --experiment NAME, and just one of them")
    space, importances = None, dict[str, float]()
    if sweep:
        entries, space, importances = _read_sweep(sweep, output)
        title = f"sweep {entries[0].run.path.parent.name if entries else sweep}"
        metrics, sort = _sweep_columns(entries, space, metrics, sort)
    elif experiment:
        entries, title = read_experiment(experiment, output), f"experiment {experiment}"
    else:
        entries, title = [read_entry(run) for run in open_runs(runs, output)], "runs"
    entries = _selected(entries, where)
    shown = shown_metrics(entries, metrics)
    # A trial is a row of its own, also where two have drawn the same values.
    groups = [Group(entry.name, (entry,)) for entry in entries] if sweep else group_by_seed(entries)
    measured_runs = {entry.name: entry.run for entry in entries if any(key in entry.metrics for key in shown)}
    differing = unlike_runs(measured_runs, shown)
    ranked = force or not differing
    if not ranked:
        groups = [part for group in groups for part in _alike(group, shown)]
    found = differences(groups, shown) if ranked and not sweep else []
    ordered = sort_groups(groups, sort_key(entries, sort)) if ranked else groups
    given = [group.label for group in groups]
    return Comparison(title, ordered, shown, found, given, space, importances, differing, ranked)


def _alike(group: Group, metrics: Sequence[str]) -> list[Group]:
    """A group as it is, or its runs one by one where these were not measured alike: they have no mean."""
    runs = {entry.name: entry.run for entry in group.entries}
    if not unlike_runs(runs, metrics):
        return [group]
    return [Group(entry.name, (entry,)) for entry in group.entries]


def _selected(entries: Sequence[Entry], where: str | None) -> list[Entry]:
    """Entries for which the conditions hold.

    Raises:
        ConfigError: there are none.
    """
    chosen = select(entries, where)
    if not chosen:
        raise ConfigError(
            f"--where: {where!r} holds for none of them" if where else "compare: there is no run yet"
        )
    return chosen


def _sweep_columns(
    entries: Sequence[Entry], space: SearchSpace, metrics: Sequence[str], sort: str | None
) -> tuple[Sequence[str], str | None]:
    """Metrics to show of a sweep and to sort by, where they are not named: its objectives, if measured."""
    measured = set(iterate_metrics(entries))  # none, where every trial has failed
    wanted = [name for name in dict.fromkeys([*space.metrics, "val/accuracy"]) if name in measured]
    return metrics or wanted, sort or next((name for name in space.metrics if name in measured), None)


def _read_sweep(name: str, output: str) -> tuple[list[Entry], SearchSpace, dict[str, float]]:
    from rtk.runs.sweep import Sweep
    from rtk.tune.results import importances, read_trials
    from rtk.tune.study import open_study

    sweep = Sweep.open(name, output)
    space = sweep.space()
    return read_trials(sweep), space, importances(open_study(sweep.path, space), space)
