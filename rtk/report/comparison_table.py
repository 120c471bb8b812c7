"""The table of a comparison: what is shown, in which order."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtk.config.activity import has_effect
from rtk.config.errors import ConfigError, wanted_of
from rtk.config.metric_names import FULL_SPECTRUM, bare_name, larger_is_better
from rtk.report.tables import METRICS, format_value, how_shown
from rtk.runs.results import Entry, Group, changed_keys, iterate_metrics

TEST_METRICS = (
    *("accuracy", "aurc", "auroc_near", "ds_aurc_near", "ds_aurc_far"),
    *(f"{FULL_SPECTRUM}{metric}" for metric in ("accuracy", "auroc_near", "ds_aurc_near")),
)
VAL_METRICS = ("val/accuracy", "val/aurc", "val/ds_aurc_near", "val/ds_aurc_far")
SORT_BY = ("ds_aurc_near", "val/ds_aurc_near", "accuracy", "val/accuracy")


def shown_metrics(entries: Sequence[Entry], wanted: Sequence[str]) -> list[str]:
    """Metrics of the table: those wanted, or a handful of what there is.

    Raises:
        ConfigError: where no entry has a wanted one.
    """
    known = list(iterate_metrics(entries))
    for name in wanted:
        if name not in known:
            wanted = wanted_of(name, known) if known else "none, nothing is measured"
            raise ConfigError(f"metric: got {name!r}, wanted {wanted}")
    return list(wanted) or [k for k in TEST_METRICS if k in known] or [k for k in VAL_METRICS if k in known]


def sort_groups(groups: Sequence[Group], metric: str) -> list[Group]:
    """Groups from the best mean to the worst; those without the metric last."""
    sign = -1 if larger_is_better(metric) else 1

    def position(group: Group) -> float:
        values = group.values(metric)
        return sign * float(np.mean(values)) if values else math.inf

    return sorted(groups, key=position)


def sort_key(entries: Sequence[Entry], wanted: str | None) -> str:
    """The metric to sort by: the one wanted, or the first of `SORT_BY` that there is."""
    if wanted is not None:
        return shown_metrics(entries, [wanted])[0]
    known = set(iterate_metrics(entries))
    return next((key for key in SORT_BY if key in known), SORT_BY[-1])


def heading(metric: str) -> str:
    """A metric as a heading, with its unit."""
    name = bare_name(metric)
    place = metric.removesuffix(name).rstrip("/")
    prefix = f"{place.replace('_', ' ')} " if place else ""
    return prefix + (how_shown(name).heading if _is_known(name) else name)


def cell(metric: str, values: Sequence[float]) -> str:
    """A metric of a group: its value, or mean ± standard deviation over seeds."""
    name = bare_name(metric)
    if not values:
        return "–"
    if _is_known(name):
        return format_value(name, values[0] if len(values) == 1 else list(values))
    return f"{np.mean(values):.4f}"


def named_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics in a line, each with its name and unit."""
    return ", ".join(f"{heading(key)} {cell(key, [value])}" for key, value in metrics.items())


def _is_known(name: str) -> bool:
    return name in METRICS or name.rpartition("_")[0] in METRICS


def factor(metric: str) -> float:
    """What a value is multiplied by to be in the unit of the metric's heading."""
    name = bare_name(metric)
    return how_shown(name).factor if _is_known(name) else 1.0


def shown_difference(metric: str, difference: float) -> str:
    """A difference of a metric in the unit of its heading, with its sign."""
    name = bare_name(metric)
    decimals = how_shown(name).decimals if _is_known(name) else 4
    return f"{difference * factor(metric):+.{decimals}f}"


def rows(groups: Sequence[Group], metrics: Sequence[str], with_settings: bool = True) -> list[list[str]]:
    """The table, headings first: name, seeds, state, metrics, and a column for each param that differs."""
    entries = [entry for group in groups for entry in group.entries]
    keys = changed_keys(entries) if with_settings else []
    with_seeds = any(len(group.entries) > 1 for group in groups)
    with_state = any("state" in entry.attributes for entry in entries)
    headings = ["run", *["seeds"] * with_seeds, *["state"] * with_state]
    with_front = sum(bool(entry.attributes.get("pareto")) for entry in entries) > 1
    table = [[*headings, *map(heading, metrics), *short_keys(keys)]]
    for group in groups:
        first = group.entries[0]
        cells = [group.label, *[str(len(group.entries))] * with_seeds]
        cells += [_state(first, with_front)] * with_state
        cells += [cell(metric, group.values(metric)) for metric in metrics]
        table.append([*cells, *(setting(first, key) for key in keys)])
    return table


def setting(entry: Entry, key: str) -> str:
    """A param of a run as it is shown; nothing where it has no effect."""
    return short_value(entry.params.get(key)) if has_effect(key, entry.params) else ""


def _state(entry: Entry, with_front: bool) -> str:
    state = str(entry.attributes.get("state", ""))
    return f"{state}, on the front" if with_front and entry.attributes.get("pareto") else state


def as_text(groups: Sequence[Group], metrics: Sequence[str]) -> str:
    """The table for a terminal, a line for each group: the params that differ stand last, as KEY=VALUE."""
    table = rows(groups, metrics)
    first = len(table[0]) - len(changed_keys([entry for group in groups for entry in group.entries]))
    names = table[0][first:]
    lines = [[*table[0][:first], "settings that differ"]]
    for row in table[1:]:
        pairs = zip(names, row[first:], strict=True)
        lines.append([*row[:first], " ".join(f"{name}={value}" for name, value in pairs if value)])
    widths = [max(len(line[column]) for line in lines) for column in range(first)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:first], widths[1:]), line[first]]
        ).rstrip()
        for line in lines
    )


def short_keys(keys: Sequence[str]) -> list[str]:
    """Each key's last parts, as many as tell it from the others: `lr`, but `regmixup.weight`."""
    shortened = []
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        shortened.append(
            next(e for e in ends if e == key or sum(f".{k}".endswith(f".{e}") for k in keys) == 1)
        )
    return shortened


def short_value(value: Any) -> str:
    """A param as it is shown: four digits of a fraction."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def as_records(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One record a run, for programs: attributes, all metrics as fractions, the params that differ."""
    entries = [entry for group in groups for entry in group.entries]
    keys = changed_keys(entries)
    return [
        {
            "group": group.label,
            **entry.attributes,
            "path": str(entry.run.path),
            "seed": entry.seed,
            "metrics": dict(entry.metrics),
            "params": {key: entry.params.get(key) for key in keys},
            **({"replicates": dict(entry.replicates)} if entry.replicates else {}),
        }
        for group in groups
        for entry in group.entries
    ]


def as_csv(groups: Sequence[Group]) -> str:
    """`as_records` as CSV, with columns `metrics.NAME` and `params.KEY`."""
    flat = []
    for record in as_records(groups):
        tables = {name: record.pop(name, {}) for name in ("metrics", "params", "replicates")}
        flat.append(
            record
            | {f"{name}.{key}": value for name, table in tables.items() for key, value in table.items()}
        )
    columns = dict.fromkeys(key for row in flat for key in row)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()
