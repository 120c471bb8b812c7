"""What is compared: runs from their folders, on their own, of a sweep or of an experiment."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.activity import has_effect
from rtk.config.changes import When, may_change
from rtk.config.errors import ConfigError, nearest
from rtk.config.load import flatten
from rtk.config.metric_names import FULL_SPECTRUM
from rtk.config.overrides import typed_value
from rtk.runs.bounded_parquet import open_bounded
from rtk.runs.ensemble import read_ensemble
from rtk.runs.folder import RunFolder
from rtk.runs.interpolation import read_interpolation
from rtk.runs.json_files import read_json
from rtk.runs.names import group_name
from rtk.runs.trained import last_validation

CONDITION = re.compile(r"^\s*(params|metrics|attributes)\.([\w./]+)\s*(!=|<=|>=|=|<|>)\s*(.+?)\s*$")
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


RESULT_KEYS = ("summary", "test", "scores", "sets", "groups", "protocol", "calibration", "step")
SCORE_COLUMNS = {  # of `scores.parquet`; all others are scores
    **dict.fromkeys(("set", "group"), pa.types.is_string),
    **dict.fromkeys(("sample_id", "label", "prediction"), pa.types.is_integer),
    "is_correct": pa.types.is_boolean,
}


def read_scores(run: RunFolder) -> pa.Table:
    """The score table of an evaluated run.

    Raises:
        ConfigError: where the run has not been evaluated, or the table is damaged.
    """
    path = _evaluated(run, "scores.parquet")
    try:
        with open_bounded(path) as parquet:
            table = parquet.table()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: damaged ({next(iter(str(error).splitlines()), '')})") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for column in table.schema:
        wanted = SCORE_COLUMNS.get(column.name, pa.types.is_floating)
        if not wanted(column.type) or table[column.name].null_count:
            raise ConfigError(f"{path}: damaged: column {column.name!r} is {column.type}, or has nulls")
    missing = [name for name in SCORE_COLUMNS if name not in table.column_names]
    if missing:
        raise ConfigError(f"{path}: damaged: has no column {missing[0]!r}")
    return table


def read_result(run: RunFolder) -> dict[str, Any]:
    """What `evaluate_run` returned.

    Raises:
        ConfigError: where the run has not been evaluated, or by a version of rtk that wrote something else.
    """
    result = read_json(_evaluated(run, "metrics.json"), "evaluation/metrics.json")
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        raise ConfigError(
            f"{run.name}: metrics.json lacks {missing[0]!r}, another version of rtk wrote it; "
            f"run `rtk evaluate {run.place}` again"
        )
    return result


def _evaluated(run: RunFolder, name: str) -> Path:
    path = run.evaluation / name
    if not path.exists():
        raise ConfigError(f"{run.name}: not evaluated yet, run `rtk evaluate {run.place}` first")
    return path


@dataclass(frozen=True)
class Entry:
    """One run as a row of data.

    Attributes:
        run: its folder.
        params: config values by dotted key.
        metrics: `val/...` of its last validation and, once evaluated, the headline metrics of the test.
        attributes: `name`, and for a sweep's trial `number`, `state` and, if it failed, `reason`.
        replicates: of a trial with several seeds, each one's metrics, of which `metrics` are the means.
    """

    run: RunFolder
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    replicates: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.attributes["name"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.params["seed"])

    def values(self, metric: str) -> list[float]:
        """A metric of each of its seeds; empty where it is not measured."""
        if metric in self.replicates:
            return list(self.replicates[metric])
        return [self.metrics[metric]] if metric in self.metrics else []

    def tried(self) -> dict[str, Any]:
        """The params that make it a run of its own kind: all but the incidental ones."""
        return {key: value for key, value in self.params.items() if not may_change(key, When.INCIDENTAL)}


def read_entry(run: RunFolder, **attributes: Any) -> Entry:
    """A run as it is now, evaluated or not."""
    metrics = last_validation(run)
    if (run.evaluation / "metrics.json").exists():
        result = read_result(run)
        full = result.get("full_spectrum", {}).get("summary", {})
        metrics |= result["summary"] | {f"{FULL_SPECTRUM}{key}": value for key, value in full.items()}
    params = dict(flatten(run.config_tree()))
    if (ensemble := read_ensemble(run.path)) is not None:  # else it would be taken for a seed of its members
        params["ensemble"] = f"{len(ensemble.members)} by {ensemble.average}"
    if (interpolation := read_interpolation(run.path)) is not None:
        params["interpolation"] = interpolation.alpha
    return Entry(run, params, metrics, {"name": run.name, **attributes})


def read_experiment(name: str, output: str) -> list[Entry]:
    """All runs under `output` whose `tracking.experiment` it is, a sweep's trials included.

    Raises:
        ConfigError: where there is none.
    """
    folders = [*Path(output).glob("*/config.yaml"), *Path(output).glob("*/trial-*/config.yaml")]
    runs = [RunFolder(path.parent.absolute()) for path in sorted(folders)]
    entries = [read_entry(run) for run in runs if run.config_tree()["tracking"]["experiment"] == name]
    if not entries:
        raise ConfigError(f"--experiment: got {name!r}, no run under {output}/ belongs to it")
    return entries


def select(entries: Iterable[Entry], where: str | None) -> list[Entry]:
    """Entries for which all conditions hold, such as `params.model.width = 8 and metrics.accuracy > 0.9`.

    Raises:
        ConfigError: where a condition cannot be read, or is about a key that no entry has.
    """
    entries = list(entries)
    conditions = [_condition(text, entries) for text in re.split(r"\s+and\s+", where)] if where else []
    return [entry for entry in entries if all(holds(entry) for holds in conditions)]


def _condition(text: str, entries: Sequence[Entry]) -> Callable[[Entry], bool]:
    match = CONDITION.match(text)
    if match is None:
        raise ConfigError(
            f"--where: got {text!r}, wanted such as params.optimizer.lr = 0.1 or metrics.val/aurc < 0.2"
        )
    table, key, sign, value = match.groups()
    wanted = _literal(key if table == "params" else "", value)
    known = {name for entry in entries for name in getattr(entry, table)}
    if known and key not in known:
        raise ConfigError(
            f"--where: no run has {table}.{key}, the nearest there is is {table}.{nearest(key, known)}"
        )

    def holds(entry: Entry) -> bool:
        values = getattr(entry, table)
        try:
            return key in values and bool(COMPARISONS[sign](values[key], wanted))
        except TypeError:  # of another type: not comparable, so it does not hold
            return False

    return holds


def _literal(key: str, text: str) -> Any:
    """A value as an override would have it."""
    try:
        return typed_value(key, text)
    except ConfigError:
        raise ConfigError(f"--where: got the value {text!r}, wanted a number or a word") from None


def changed_keys(entries: Sequence[Entry]) -> list[str]:
    """Params in which entries differ, in the order of the config; none that has no effect in any of them."""
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry.tried().items():
            values.setdefault(key, set()).add(repr(value))
    changed = [key for key, found in values.items() if len(found) > 1]
    return [key for key in changed if any(has_effect(key, entry.params) for entry in entries)]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed."""

    label: str
    entries: tuple[Entry, ...]

    def values(self, metric: str) -> list[float]:
        """A metric of all runs that have it."""
        return [value for entry in self.entries for value in entry.values(metric)]


def group_by_seed(entries: Sequence[Entry]) -> list[Group]:
    """Entries put together where only the seed differs, in the order in which they come."""
    by_kind: dict[str, list[Entry]] = {}
    for entry in entries:
        by_kind.setdefault(repr(sorted(entry.tried().items())), []).append(entry)
    for members in by_kind.values():
        members.sort(key=lambda entry: entry.seed)
    names = {kind: _label(members) for kind, members in by_kind.items()}
    repeated = {name for name in names.values() if list(names.values()).count(name) > 1}
    return [
        Group(members[0].name if names[kind] in repeated else names[kind], tuple(members))
        for kind, members in by_kind.items()
    ]


def _label(members: Sequence[Entry]) -> str:
    """Name of the run; of several that of their group, or else of their recipe."""
    if len(members) == 1:
        return members[0].name
    (first, *others) = {group_name(entry.name, entry.seed) for entry in members}
    return str(members[0].params["name"]) if others or first is None else first


def mean_and_std(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """`mean` and `std` (ddof 1; of two runs or more) of the metrics that all have, by name."""
    keys = [key for key in (found[0] if found else ()) if all(key in own for own in found)]
    columns = {key: np.array([own[key] for own in found], np.float64) for key in keys}
    std = {key: float(values.std(ddof=1)) for key, values in columns.items()} if len(found) > 1 else {}
    return {"mean": {key: float(values.mean()) for key, values in columns.items()}, "std": std}


def iterate_metrics(entries: Iterable[Entry]) -> Iterator[str]:
    """Names of all metrics that any entry has, each once."""
    yield from dict.fromkeys(key for entry in entries for key in entry.metrics)
