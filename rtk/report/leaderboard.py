"""A leaderboard of one's own: methods x scores x sets for one metric, and which rows the best one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from rtk.config.data import GROUPS
from rtk.config.metric_names import larger_is_better
from rtk.metrics.bootstrap import Interval
from rtk.report.evaluated import EvaluatedRun
from rtk.report.likeness import conditions_of, unlike
from rtk.report.paired import paired_auroc, paired_difference
from rtk.report.tables import METRICS
from rtk.runs.folder import RunFolder
from rtk.runs.results import Group

LEVEL = 0.95
JOINT_METRICS = ("ds_f1", "ds_aurc")  # of a confidence and an OOD score


class Column(NamedTuple):
    """A column of the board: its heading, the metric that it has, and where it is measured.

    `place` is `test`, a group (`near`, `far`), whose mean it is, or the name of an OOD set.
    """

    heading: str
    metric: str
    place: str

    @property
    def better(self) -> int:
        """1 where larger values are better, else -1."""
        return 1 if larger_is_better(self.metric) else -1


@dataclass(frozen=True)
class BoardRow:
    """A score of a method.

    Attributes:
        method: name of a run, or of runs that differ in nothing but the seed; or who has published it.
        score: name of the score.
        values: a value of each seed, as fractions, by column.
        runs: evaluations by seed; none of published rows.
        spread: standard deviations that were published, by column.
    """

    method: str
    score: str
    values: Mapping[Column, Sequence[float]]
    runs: Mapping[int, EvaluatedRun] = field(default_factory=dict)
    spread: Mapping[Column, float] = field(default_factory=dict)

    def mean(self, column: Column) -> float | None:
        """Mean over the seeds; None where the column has not been measured."""
        values = self.values.get(column, ())
        return float(np.mean(values)) if len(values) else None

    def std(self, column: Column) -> float | None:
        """Standard deviation over the seeds (ddof 1); None of one."""
        values = self.values.get(column, ())
        return float(np.std(values, ddof=1)) if len(values) > 1 else self.spread.get(column)


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        columns: accuracy and AURC of the score as a confidence, then the metric by group and set.
        rows: the best first by the first group's mean, or in the order given where they are not `ranked`.
        best: row with the best mean, by column.
        worse: rows that the best is significantly better than, by column.
        published: rows that others have measured.
        unlike: what runs were not measured alike on, a line each.
    """

    columns: list[Column]
    rows: list[BoardRow]
    best: Mapping[Column, BoardRow] = field(default_factory=dict)
    worse: Mapping[Column, Sequence[BoardRow]] = field(default_factory=dict)
    published: Sequence[BoardRow] = ()
    unlike: Sequence[str] = ()


def unlike_boards(runs: Sequence[RunFolder], metric: str) -> list[str]:
    """What runs were not measured alike on, a line each; which score is the headline does not matter."""
    keys = ["accuracy", "aurc", *(f"{metric}_{group}" for group in GROUPS)]
    without = {"ood_score"} if metric in JOINT_METRICS else {"ood_score", "confidence", "ds_method"}
    known = {run.name: conditions_of(run, keys) for run in runs}
    return unlike({name: {k: v for k, v in own.items() if k not in without} for name, own in known.items()})


def make_board(
    groups: Sequence[Group],
    scores: Mapping[str, Sequence[str]],
    metric: str = "auroc",
    unlike: Sequence[str] = (),
    ranked: bool = True,
) -> Board:
    """The board of evaluated runs.

    Args:
        groups: runs, those that differ in nothing but the seed together.
        scores: by name of a run, the scores to show.
        metric: one of OOD detection, such as `auroc`.
        unlike: what the runs were not measured alike on.
        ranked: whether rows may be compared.
    """
    evaluated = {e.name: EvaluatedRun.read(e.run, e.name) for group in groups for e in group.entries}
    columns = _columns(list(evaluated.values()), metric)
    rows = [row for group in groups for row in _rows_of(group, evaluated, scores, columns)]
    if not ranked:
        return Board(columns, rows, unlike=unlike)
    lead = next((column for column in columns if column.place in GROUPS), columns[0])
    rows.sort(key=lambda row: -lead.better * (row.mean(lead) or 0.0))
    best = {column: found for column in columns if (found := _best(rows, column)) is not None}
    worse = {
        column: [r for r in rows if r is not top and is_worse(r, top, column)] for column, top in best.items()
    }
    return Board(columns, rows, best, worse, unlike=unlike)


def _columns(evaluated: Sequence[EvaluatedRun], metric: str) -> list[Column]:
    name, unit = METRICS[metric].heading.rsplit(" ", 1)
    columns = [Column(METRICS[key].heading, key, "test") for key in ("accuracy", "aurc")]
    for group in GROUPS:
        sets = dict.fromkeys(one for entry in evaluated for one in entry.sets_of(group))
        if sets:
            columns.append(Column(f"{name} {group} {unit}", metric, group))
            columns += [Column(f"{one} {unit}", metric, one) for one in sets] * (len(sets) > 1)
    return columns


def _rows_of(
    group: Group,
    evaluated: Mapping[str, EvaluatedRun],
    scores: Mapping[str, Sequence[str]],
    columns: Sequence[Column],
) -> list[BoardRow]:
    runs = {entry.seed: evaluated[entry.name] for entry in group.entries}
    names = dict.fromkeys(score for entry in group.entries for score in scores[entry.name])
    rows = []
    for score in names:
        found = {column: [_value(run.result, score, column) for run in runs.values()] for column in columns}
        known = {column: [v for v in values if v is not None] for column, values in found.items()}
        rows.append(BoardRow(group.label, score, known, runs))
    return rows


def _value(result: Mapping[str, Any], score: str, column: Column) -> float | None:
    """A cell of one run; None where the run has not measured it."""
    if column.place == "test":
        return result["test"].get(score, {}).get(column.metric)
    if column.place in GROUPS:
        return result["scores"].get(score, {}).get(f"{column.metric}_{column.place}")
    value: float | None = result["sets"].get(column.place, {}).get(score, {}).get(column.metric)
    return value


def _best(rows: Sequence[BoardRow], column: Column) -> BoardRow | None:
    measured = [row for row in rows if row.mean(column) is not None]
    if len({row.mean(column) for row in measured}) < 2:
        return None
    return max(measured, key=lambda row: column.better * (row.mean(column) or 0.0))


def is_worse(row: BoardRow, best: BoardRow, column: Column) -> bool:
    """Whether a row is significantly worse than the best of its column, at 95 % and for this pair alone.

    Over the seeds that both have, where there are two or more: a paired t-test. Else, of OOD metrics, over
    the images, each run of the one against each of the other, all of which must agree. Where neither can be
    had it is not said.
    """
    seeds = sorted(row.runs.keys() & best.runs.keys())
    if len(seeds) > 1:
        ahead, behind = (
            [_value(one.runs[s].result, one.score, column) for s in seeds] for one in (best, row)
        )
        pairs = zip(ahead, behind, strict=True)
        interval = paired_t([column.better * (b - a) for b, a in pairs if b is not None and a is not None])
        return interval is not None and interval.low > 0
    found = [
        _over_images(one, row.score, other, best.score, column)
        for one in row.runs.values()
        for other in best.runs.values()
    ]
    return bool(found) and all(
        interval is not None and min(column.better * interval.low, column.better * interval.high) > 0
        for interval in found
    )


def paired_t(differences: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of paired differences (Student's t); None of fewer than two."""
    if len(differences) < 2:
        return None
    mean = float(np.mean(differences))
    half = float(student.ppf((1 + LEVEL) / 2, len(differences) - 1) * np.std(differences, ddof=1))
    half /= float(np.sqrt(len(differences)))
    return Interval(mean, mean - half, mean + half, LEVEL)


def _over_images(
    one: EvaluatedRun, score: str, other: EvaluatedRun, best: str, column: Column
) -> Interval | None:
    """What the best has over a row on the images that both were tested on; None where that cannot be told."""
    first, second = _by(one, score), _by(other, best)
    if column.metric == "auroc":
        return paired_auroc(first, second, column.place)
    found = None
    if column.place in GROUPS:
        found = paired_difference(first, second, f"{column.metric}_{column.place}")
    return None if found is None else found[0]


def _by(entry: EvaluatedRun, score: str) -> EvaluatedRun:
    """An evaluation whose score to measure is another."""
    return replace(entry, result={**entry.result, "ood_score": score})
