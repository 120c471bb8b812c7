"""A comparison as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtk.config.metric_names import larger_is_better
from rtk.config.search_space import SearchSpace
from rtk.report import search_plots as plots
from rtk.report.comparison import Comparison
from rtk.report.comparison_table import factor, heading, rows, setting, short_keys, shown_difference
from rtk.report.differences import Difference
from rtk.report.evaluated import EvaluatedRun
from rtk.report.figures import Captioned, risk_coverage_figures
from rtk.report.page import write_page
from rtk.report.page_tables import Cell, Grid, fit_width
from rtk.runs.origin import said_of
from rtk.runs.results import Entry, Group, changed_keys

MOST_LINES = 7  # that can be told apart in one figure
FEWEST_FOR_COORDINATES = 3
MOST_AXES = 9


def write_comparison(found: Comparison, path: Path) -> Path:
    """Write the page; the first of its metrics colours the figures."""
    groups, metrics, is_sweep = found.groups, found.metrics, found.space is not None
    entries = [entry for group in groups for entry in group.entries]
    return write_page(
        path,
        "comparison_page.html",
        title=found.title,
        is_sweep=is_sweep,
        baseline=found.given[0],
        tables=_tables(found),
        settings=[] if is_sweep else _settings(found),
        unlike=found.unlike,
        ranked=found.ranked,
        differences=[_difference_row(one) for one in found.differences],
        wide=list(_coordinates(entries, metrics[0], found.space)) if metrics and found.ranked else [],
        search=list(_search_figures(entries, found.space, found.importances)) if found.space else [],
        curves=list(_curves(found)),
        origins=[(e.name, said) for e in entries if (said := said_of(e.run.path))],
        failed=[(e.name, e.attributes["reason"]) for e in entries if "reason" in e.attributes],
    )


def _tables(found: Comparison) -> list[Grid]:
    """Metrics of every group and the difference to the first run; of a sweep, the values tried too."""
    groups, metrics, is_sweep = found.groups, found.metrics, found.space is not None
    (first, *columns), *lines = rows(groups, metrics, with_settings=is_sweep)
    best = _best_rows(groups, metrics) if found.ranked else {}
    given = [group for group in groups if group.label == found.given[0]]
    baseline = given[0] if given and found.ranked else None
    around = {heading(metric): metric for metric in metrics if not is_sweep}
    table = []
    for number, (group, (name, *texts)) in enumerate(zip(groups, lines, strict=True)):
        cells = [
            Cell(text, _against(group, baseline, around.get(column)), best.get(column) == number)
            for column, text in zip(columns, texts, strict=True)
        ]
        table.append((name, cells))
    keep = len(metrics) if is_sweep else 0
    return fit_width(Grid(columns, table, first=first), keep)


def _against(group: Group, baseline: Group | None, metric: str | None) -> str:
    """The mean of a group minus that of the baseline; nothing for itself."""
    if metric is None or baseline is None or group is baseline:
        return ""
    one, two = baseline.values(metric), group.values(metric)
    return shown_difference(metric, float(np.mean(two) - np.mean(one))) if one and two else ""


def _settings(found: Comparison) -> list[Grid]:
    """Settings in which groups differ, a row for each, the first run's column before the others."""
    keys = changed_keys([entry for group in found.groups for entry in group.entries])
    groups = sorted(found.groups, key=lambda group: found.given.index(group.label))
    lines = [(key, [Cell(setting(group.entries[0], key) or "–") for group in groups]) for key in keys]
    columns = [group.label for group in groups]
    return fit_width(Grid(columns, lines, first="setting", wraps=True), keep=1) if lines else []


def _best_rows(groups: Sequence[Group], metrics: Sequence[str]) -> dict[str, int]:
    """For each metric's heading the row of the best group, from 0."""
    found = {}
    for metric in metrics:
        means = {n: sum(v) / len(v) for n, group in enumerate(groups) if (v := group.values(metric))}
        if len(means) > 1:
            pick = max if larger_is_better(metric) else min
            found[heading(metric)] = pick(means, key=lambda number: means[number])
    return found


def _difference_row(one: Difference) -> list[str]:
    shown = [shown_difference(one.metric, number) for number in (one.difference, one.low, one.high)]
    verdict = "yes" if one.is_significant else "no"
    return [one.group, heading(one.metric), one.over, shown[0], f"{shown[1]} … {shown[2]}", verdict]


def _coordinates(entries: Sequence[Entry], metric: str, space: SearchSpace | None) -> Iterator[Captioned]:
    known = [entry for entry in entries if metric in entry.metrics]
    keys = list(space.space) if space else changed_keys(known)
    if len(known) < FEWEST_FOR_COORDINATES or not keys:
        return
    keys = keys[:MOST_AXES]
    names = dict(zip(keys, short_keys(keys), strict=True))
    columns = {names[key]: [_value(entry, key, space) for entry in known] for key in keys}
    larger = larger_is_better(metric)
    values = [factor(metric) * entry.metrics[metric] for entry in known]
    logarithmic = {names[key]: space.space[key].loguniform is not None for key in keys} if space else {}
    svg = plots.parallel_coordinates(columns, heading(metric), values, larger, logarithmic)
    best = "highest" if larger else "lowest"
    yield Captioned(
        svg,
        f"One line per run, dark and thick where {heading(metric)} is {best}. Bundled dark lines show a good "
        "range.",
    )


def _value(entry: Entry, key: str, space: SearchSpace | None) -> Any:
    """A param as tried: nothing where its condition did not hold."""
    if space is not None and key in space.space and not space.space[key].applies(entry.params):
        return None
    return entry.params.get(key)


def _search_figures(
    entries: Sequence[Entry], space: SearchSpace, importances: dict[str, float]
) -> Iterator[Captioned]:
    metric, *others = space.metrics
    known = [entry for entry in entries if metric in entry.metrics]
    if known:
        numbers = [entry.attributes["number"] for entry in known]
        states = [entry.attributes["state"] for entry in known]
        larger = space.objectives[metric] == "max"
        values = [factor(metric) * entry.metrics[metric] for entry in known]
        yield Captioned(
            plots.history(numbers, values, states, heading(metric), larger),
            "Every trial's last value. Good: whole trials that get better, and early stops among the worse.",
        )
    if importances:
        yield Captioned(
            plots.importance(dict(zip(short_keys(list(importances)), importances.values(), strict=True))),
            f"How much of {metric} each key decides among the whole trials (fANOVA). Few trials tell little.",
        )
    whole = [entry for entry in known if entry.attributes["state"] == "complete"]
    for other in others:
        scales = factor(metric), factor(other)
        points = [(scales[0] * entry.metrics[metric], scales[1] * entry.metrics[other]) for entry in whole]
        if points:
            front = [bool(entry.attributes["pareto"]) for entry in whole]
            directions = [f"{heading(name)} ({space.objectives[name]})" for name in (metric, other)]
            yield Captioned(
                plots.pareto(points, front, (directions[0], directions[1])),
                "Whole trials. On the front are those that no other trial beats in every objective.",
            )


def _curves(found: Comparison) -> Iterator[Captioned]:
    """Risk-coverage curves of the evaluated runs, the first seed of each group; colours as in a report."""
    firsts = [
        (group.label, entry.run)
        for group in found.groups
        for entry in group.entries[:1]
        if (entry.run.evaluation / "metrics.json").exists()
    ][:MOST_LINES]
    ordered = sorted(firsts, key=lambda one: found.given.index(one[0]))
    if ordered:
        yield from risk_coverage_figures(
            [EvaluatedRun.read(run, label, number) for number, (label, run) in enumerate(ordered)]
        )
