"""The tables of a run's page: cells that hold text, what is around the value, and whether it is the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from rtk.config.metric_names import larger_is_better
from rtk.evaluate import corruptions
from rtk.report.evaluated import EvaluatedRun
from rtk.report.evaluation_lines import DECIDED_ON
from rtk.report.tables import HEADLINE, METRICS, format_spread, format_value, how_shown

PAGE_WIDTH = 1170  # pixels that a table has on a screen of 1,300
LETTER, PADDING = 8.6, 22  # pixels, at most, of a letter or digit in a table and of a cell's sides
LONGEST_WORD = 18  # letters of a heading or name before it is broken


class Cell(NamedTuple):
    """A cell: its value, in small print below it the interval or standard deviation, and its mark."""

    text: str
    around: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of a page.

    Attributes:
        columns: headings of all columns but the first, whose heading is `first`.
        rows: name and cells of each row.
        heading: above the table.
        wraps: whether the cells hold words that may be broken.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    heading: str = ""
    first: str = "score"
    wraps: bool = False
    widths: list[float] = field(init=False)

    def __post_init__(self) -> None:
        cells = [[row[number] for _, row in self.rows] for number in range(len(self.columns))]
        widths = [
            _width([name.split(" "), *((cell.text, cell.around) for cell in column)])
            for name, column in zip(self.columns, cells, strict=True)
        ]
        object.__setattr__(self, "widths", widths)

    @property
    def name_width(self) -> float:
        """Pixels that the first column takes."""
        return _width([self.first.split(" "), *([name] for name, _ in self.rows)], 3 * LONGEST_WORD)

    def head(self, rows: int) -> Grid:
        """The first rows."""
        return replace(self, rows=self.rows[:rows])

    def take(self, columns: Sequence[int]) -> Grid:
        """Some columns."""
        rows = [(name, [cells[number] for number in columns]) for name, cells in self.rows]
        return replace(self, columns=[self.columns[number] for number in columns], rows=rows)


def _width(parts: Iterable[Sequence[str]], most: int = LONGEST_WORD) -> float:
    """Pixels of a column, from the words that cannot be broken of each of its cells."""
    longest = max((len(word) for words in parts for word in words), default=0)
    return PADDING + LETTER * min(longest, most)


def fit_width(grid: Grid, keep: int = 0, limit: float = PAGE_WIDTH) -> list[Grid]:
    """A table as several that are each no wider than a page, all with the first `keep` columns.

    Args:
        grid: the table.
        keep: columns that each part repeats.
        limit: pixels.
    """
    always = list(range(keep))
    room = limit - grid.name_width - sum(grid.widths[:keep])
    parts: list[list[int]] = [[]]
    used = 0.0
    for number in range(keep, len(grid.columns)):
        if parts[-1] and used + grid.widths[number] > room:
            parts.append([])
            used = 0.0
        parts[-1].append(number)
        used += grid.widths[number]
    return [grid.take([*always, *part]) for part in parts]


def headline_rows(evaluated: Sequence[EvaluatedRun], ranked: bool = True) -> list[dict[str, Any]]:
    """One row per metric: its heading and, for each run, the text and whether it is the best.

    Where they are not `ranked`, none is.
    """
    rows = []
    for key in HEADLINE:
        values = [entry.result["summary"].get(key) for entry in evaluated]
        known = [value for value in values if value is not None]
        best = (max if larger_is_better(key) else min)(known) if ranked and len(set(known)) > 1 else None
        cells = [
            _cell(key, value, _spread(entry, "summary", key), value == best is not None)
            for entry, value in zip(evaluated, values, strict=True)
        ]
        arrow = "higher is better" if larger_is_better(key) else "lower is better"
        if known:
            rows.append({"heading": how_shown(key).heading, "better": arrow, "cells": cells})
    return rows


def score_set_table(entry: EvaluatedRun, metric: str) -> list[Grid]:
    """Scores x OOD sets for one metric, the means of both groups first; the best score of each set marked."""
    result, groups = entry.result, entry.groups
    columns = [
        *((f"{group} mean", ("scores",), f"{metric}_{group}") for group in groups),
        *((name, ("sets", name), metric) for group in groups for name in entry.sets_of(group)),
    ]
    best_of = max if larger_is_better(metric) else min
    rows = []
    for score in result["scores"]:
        cells = []
        for _, place, key in columns:
            by_score = _at(result, place)
            best = best_of(values[key] for values in by_score.values())
            value = by_score[score][key]
            is_best = len(by_score) > 1 and value == best
            cells.append(_cell(key, value, _spread(entry, *place, score, key), is_best))
        rows.append((score, cells))
    better = "higher" if larger_is_better(metric) else "lower"
    heading = f"{METRICS[metric].heading} ({better} is better)"
    return fit_width(Grid([name for name, _, _ in columns], rows, heading))


def confidence_table(entry: EvaluatedRun) -> list[Grid]:
    """Every score as a confidence on the test set: how well it tells right from wrong."""
    by_score = entry.result["test"]
    keys = [key for key in METRICS if key != "accuracy" and any(key in own for own in by_score.values())]
    rows = []
    for score, metrics in by_score.items():
        cells = []
        for key in keys:
            best_of = max if larger_is_better(key) else min
            best = best_of(other[key] for other in by_score.values())
            is_best = len(by_score) > 1 and metrics[key] == best
            cells.append(_cell(key, metrics[key], _spread(entry, "test", score, key), is_best))
        rows.append((score, cells))
    return fit_width(Grid([METRICS[key].heading for key in keys], rows))


def full_spectrum_table(entry: EvaluatedRun) -> list[Grid]:
    """Headline metrics without and with images under covariate shift, and each such set; none without any."""
    full = entry.result.get("full_spectrum")
    if full is None:
        return []
    both = (entry.result["summary"], full["summary"])
    keys = [key for key in HEADLINE if any(key in summary for summary in both)]
    rows = [
        (how_shown(key).heading, [_cell(key, both[0].get(key)), _cell(key, both[1].get(key), around)])
        for key in keys
        for around in [_at(full.get("intervals"), ("summary", key))]
    ]
    confidence = entry.result["confidence"]
    errors = ("accuracy", "aurc", "auroc_errors")
    alone = [
        (name, [_cell(key, by_score[confidence].get(key)) for key in errors])
        for name, by_score in {"test": entry.result["test"], **full["csid"]}.items()
    ]
    return [
        Grid(["test", "test and shifted"], rows, "in-distribution images", "metric"),
        Grid([METRICS[key].heading for key in errors], alone, "each set alone", "set"),
    ]


def corruption_table(entry: EvaluatedRun) -> list[Grid]:
    """Accuracy at each severity, means of AURC and AUROC of errors; none where not measured."""
    measured = entry.corruption_rows()
    if not measured:
        return []
    kinds = dict.fromkeys(row["corruption"] for row in measured if row["severity"])
    clean = [_cell("accuracy", row["accuracy"]) for row in measured if not row["severity"]]
    columns = [*(f"severity {severity}" for severity in corruptions.SEVERITIES), "AURC ‰", "AUROC errors %"]
    rows = [("none", [*clean, *[Cell("")] * (len(columns) - len(clean))])]
    for kind in kinds:
        own = sorted((row for row in measured if row["corruption"] == kind), key=lambda row: row["severity"])
        means = {key: [row[key] for row in own if key in row] for key in ("aurc", "auroc_errors")}
        cells = [_cell("accuracy", row["accuracy"]) for row in own]
        cells += [_cell(key, sum(values) / len(values) if values else None) for key, values in means.items()]
        rows.append((kind, cells))
    images = next(row["images"] for row in measured if row["severity"])
    of_others = entry.result.get("corrupted_sets")
    where = f", each corrupted by others ({of_others})" if of_others else ""
    heading = f"accuracy % of {images:,} test images{where}; means of AURC ‰ and AUROC errors %"
    return [*fit_width(Grid(columns, rows, heading, "corruption")), *_corruptions_by_score(entry)]


def _corruptions_by_score(entry: EvaluatedRun) -> list[Grid]:
    """Means over the corruptions by score; none where one score was measured."""
    means = entry.result.get("corruptions_by_score", {})
    keys = ("aurc", "auroc_errors")
    rows = [(score, [_cell(key, own.get(key)) for key in keys]) for score, own in means.items()]
    columns = ["AURC ‰", "AUROC errors %"]
    return [Grid(columns, rows, "means over types and severities", "score")] if rows else []


def decision_rows(entry: EvaluatedRun) -> list[tuple[str, str, str, str]]:
    """Images, coverage, risk and how the images were decided; none where there is no rule."""
    decision = entry.decision or {}
    rows = []
    for name in DECIDED_ON:
        reached = decision.get(name)
        if reached is not None:
            shares = ", ".join(
                f"{kind} {100 * reached[kind]:.1f} %" for kind in ("accept", "likely-wrong", "unfamiliar")
            )
            risk = "–" if reached["risk"] is None else f"{100 * reached['risk']:.2f} %"
            images = f"{name.replace('_', ' ')} ({reached['images']:,})"
            rows.append((images, f"{100 * reached['coverage']:.2f} %", risk, shares))
    return rows


def _cell(key: str, value: Any, spread: Any = None, best: bool = False) -> Cell:
    return Cell(format_value(key, value), format_spread(key, spread) if value is not None else "", best)


def _spread(entry: EvaluatedRun, *place: str) -> Any:
    """Standard deviation or interval of the value at a place of the result; None where there is none."""
    return _at(entry.result.get("intervals") or entry.result.get("std"), place)


def _at(tree: Any, place: Sequence[str]) -> Any:
    for key in place:
        if tree is None:
            return None
        tree = tree.get(key)
    return tree
