"""Tables of evaluated runs: data sets x scores x metrics, and how each metric is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np


class Metric(NamedTuple):
    """How a fraction is shown: heading with its unit, factor, decimals."""

    heading: str
    factor: float
    decimals: int


PERCENT, PERMILLE = ("%", 100, 2), ("‰", 1000, 2)


def _metric(name: str, unit: tuple[str, float, int]) -> Metric:
    return Metric(f"{name} {unit[0]}", unit[1], unit[2])


ERROR_METRICS = {
    "accuracy": _metric("accuracy", PERCENT),
    "aurc": _metric("AURC", PERMILLE),
    "e_aurc": _metric("E-AURC", PERMILLE),
    "augrc": _metric("AUGRC", PERMILLE),
    "auroc_errors": _metric("AUROC errors", PERCENT),
    "fpr95_errors": _metric("FPR95 errors", PERCENT),
    "aupr_success": _metric("AUPR success", PERCENT),
    "aupr_errors": _metric("AUPR errors", PERCENT),
}
OOD_METRICS = {
    "auroc": _metric("AUROC", PERCENT),
    "fpr95": _metric("FPR95", PERCENT),
    "aupr_in": _metric("AUPR in", PERCENT),
    "aupr_out": _metric("AUPR out", PERCENT),
    "ds_f1": _metric("DS-F1", PERCENT),
    "ds_aurc": _metric("DS-AURC", PERMILLE),
    "ood_f1": _metric("OOD-F1", PERCENT),
    "ood_aurc": _metric("OOD-AURC", PERMILLE),
}
METRICS = (
    ERROR_METRICS
    | OOD_METRICS
    | {  # measured too; the tables show the trapezoid ones, as the papers do
        "ap_in": _metric("AP in", PERCENT),
        "ap_out": _metric("AP out", PERCENT),
    }
)
# What is shown first: of each run, in the order of the papers' tables.
HEADLINE = (
    "accuracy",
    "aurc",
    *(f"{metric}_{group}" for metric in ("auroc", "fpr95", "ds_f1", "ds_aurc") for group in ("near", "far")),
)
KEYS = ("run", "set", "group", "score")


def how_shown(key: str) -> Metric:
    """How a metric is shown, `auroc_near` as well as `auroc`."""
    name, _, group = key.rpartition("_")
    if group not in ("near", "far"):
        return METRICS[key]
    shown = METRICS[name]
    stem, unit = shown.heading.rsplit(" ", 1)
    return shown._replace(heading=f"{stem} {group} {unit}")


def format_value(key: str, value: Any, spread: Any = None) -> str:
    """A fraction as papers show it.

    Args:
        key: of the metric.
        value: a fraction, None (shown as a dash), or a list of them (one per seed), shown as mean ± standard
            deviation.
        spread: a standard deviation, or the two ends of a confidence interval.
    """
    if value is None:
        return "–"
    _, factor, decimals = how_shown(key)
    if isinstance(value, list):
        value, spread = float(np.mean(value)), float(np.std(value, ddof=1))
    around = format_spread(key, spread)
    text = f"{value * factor:.{decimals}f}"
    return f"{text} {around}" if around else text


def format_spread(key: str, spread: Any) -> str:
    """The two ends of an interval, or a standard deviation, as papers show it; nothing for None."""
    _, factor, decimals = how_shown(key)
    if isinstance(spread, Sequence):
        return f"[{spread[0] * factor:.{decimals}f}, {spread[1] * factor:.{decimals}f}]"
    return "" if spread is None else f"± {spread * factor:.{decimals}f}"


def metric_rows(columns: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Headline metrics as table rows, headings first: a row for each metric, a column for each mapping."""
    rows = [["", *columns]]
    for key in HEADLINE:
        if any(key in metrics for metrics in columns.values()):
            cells = [format_value(key, metrics.get(key)) for metrics in columns.values()]
            rows.append([how_shown(key).heading, *cells])
    return rows


def score_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """An evaluation for a terminal, headings first: a row for each score, means over near and far sets."""
    wanted = ("auroc_near", "auroc_far", "ds_aurc_near", "ds_aurc_far")  # what 80 columns hold
    keys = ["aurc", *(key for key in wanted if any(key in means for means in result["scores"].values()))]
    rows = [["score", *(how_shown(key).heading for key in keys)]]
    for score, metrics in result["scores"].items():
        known = {**metrics, **result["test"][score]}
        rows.append([score, *(format_value(key, known.get(key)) for key in keys)])
    return rows


@dataclass(frozen=True)
class Row:
    """Metrics of one score on one set of one run; `spread` holds standard deviations or intervals."""

    run: str
    set: str
    group: str
    score: str
    metrics: Mapping[str, float]
    spread: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """The row for programs: keys, fractions, and ends of intervals or standard deviations beside them."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in KEYS}
        for key, value in self.metrics.items():
            plain[key] = value
            spread = self.spread.get(key)
            if isinstance(spread, Sequence):
                plain |= {f"{key}_low": spread[0], f"{key}_high": spread[1]}
            elif spread is not None:
                plain[f"{key}_std"] = spread
        return plain


def pooled_rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows of several evaluations, by name of the run: the test set, each OOD set, means of the groups."""
    return [row for run, result in results.items() for row in _rows_of(run, result)]


def _rows_of(run: str, result: Mapping[str, Any]) -> Iterator[Row]:
    yield from _standard_rows(run, result)
    full = result.get("full_spectrum")
    if full is not None:
        for name, by_score in full["csid"].items():
            for score, metrics in by_score.items():
                yield Row(run, f"{name} (csid)", "id", score, metrics, {})
        around = result.get("std", {}).get("full_spectrum", {})
        whole = {**full, "groups": result["groups"], "std": around}
        yield from (replace(row, set=f"{row.set} (full spectrum)") for row in _standard_rows(run, whole))


def _standard_rows(run: str, result: Mapping[str, Any]) -> Iterator[Row]:
    spread = result.get("intervals") or result.get("std") or {}
    for score, metrics in result["test"].items():
        yield Row(run, "test", "id", score, metrics, spread.get("test", {}).get(score, {}))
    for name, by_score in result["sets"].items():
        for score, metrics in by_score.items():
            around = spread.get("sets", {}).get(name, {}).get(score, {})
            yield Row(run, name, result["groups"][name], score, metrics, around)
    for group in ("near", "far"):
        for score, metrics in result["scores"].items():
            ending = f"_{group}"
            means = {
                key.removesuffix(ending): value for key, value in metrics.items() if key.endswith(ending)
            }
            around = spread.get("scores", {}).get(score, {})
            around = {
                key.removesuffix(ending): value for key, value in around.items() if key.endswith(ending)
            }
            if means:
                yield Row(run, f"{group} (mean)", group, score, means, around)
