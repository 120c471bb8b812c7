"""A self-contained HTML page that sets runs side by side: tables, curves, histograms, the DS-F1 surface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtk.config.load import flatten
from rtk.config.metric_names import larger_is_better
from rtk.evaluate import corruptions
from rtk.report.figures import (
    EvaluatedRun,
    corruption_figures,
    risk_coverage_figures,
    score_figures,
    surface_figures,
    training_figures,
)
from rtk.report.page import write_page
from rtk.report.tables import HEADLINE, METRICS, format_value, how_shown
from rtk.runs.folder import RunFolder

# Every score on every OOD set: what is shown at once, and what on a click.
OPEN_TABLES, FOLDED_TABLES = ("auroc", "ds_aurc"), ("fpr95", "ds_f1", "aupr_in", "aupr_out")


def write_report(runs: Sequence[RunFolder], path: Path | None = None) -> Path:
    """Write the page for one or several evaluated runs.

    Args:
        runs: evaluated runs, the baseline first.
        path: where to; None: `evaluation/report.html` of the last run.

    Raises:
        ConfigError: where a run has not been evaluated.
    """
    labels = _short_labels(runs)
    evaluated = [EvaluatedRun.read(run, label) for run, label in zip(runs, labels, strict=True)]
    return write_page(
        path or runs[-1].evaluation / "report.html",
        "run_page.html",
        title=" and ".join(labels),
        headline=headline_rows(evaluated),
        curves=list(risk_coverage_figures(evaluated)),
        corruption_figures=list(corruption_figures(evaluated)),
        per_run=[_run_section(entry) for entry in evaluated],
        differences=_differences(evaluated),
        environment=runs[-1].read_json("environment.json"),
    )


def headline_rows(evaluated: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """One row per metric: its heading and, for each run, the text and whether it is the best."""
    rows = []
    for key in HEADLINE:
        shown = how_shown(key)
        values = [entry.result["summary"].get(key) for entry in evaluated]
        known = [value for value in values if value is not None]
        best = (max if larger_is_better(key) else min)(known) if len(known) > 1 else None
        cells = [
            {
                "text": format_value(key, value, _spread(entry, "summary", key)),
                "best": value == best is not None,
            }
            for entry, value in zip(evaluated, values, strict=True)
        ]
        arrow = "higher is better" if larger_is_better(key) else "lower is better"
        rows.append({"heading": shown.heading, "better": arrow, "cells": cells})
    return rows


def score_set_table(entry: EvaluatedRun, metric: str) -> dict[str, Any]:
    """Scores x OOD sets for one metric, with the means of both groups; the best score of each set marked."""
    result, groups = entry.result, entry.groups
    columns = [
        *((name, ("sets", name), metric) for group in groups for name in _sets_of(entry, group)),
        *((f"{group} mean", ("scores",), f"{metric}_{group}") for group in groups),
    ]
    best_of = max if larger_is_better(metric) else min
    rows = []
    for score in result["scores"]:
        cells = []
        for _, place, key in columns:
            by_score = _at(result, place)
            best = best_of(values[key] for values in by_score.values())
            value = by_score[score][key]
            text = format_value(key, value, _spread(entry, *place, score, key))
            cells.append({"text": text, "best": len(by_score) > 1 and value == best})
        rows.append((score, cells))
    better = "higher" if larger_is_better(metric) else "lower"
    heading = f"{METRICS[metric].heading} ({better} is better)"
    return {"heading": heading, "columns": [name for name, _, _ in columns], "rows": rows}


def confidence_table(entry: EvaluatedRun) -> dict[str, Any]:
    """Every score as a confidence on the test set: how well it tells right from wrong."""
    by_score = entry.result["test"]
    keys = [key for key in METRICS if key != "accuracy" and any(key in own for own in by_score.values())]
    rows = []
    for score, metrics in by_score.items():
        cells = []
        for key in keys:
            best_of = max if larger_is_better(key) else min
            best = best_of(other[key] for other in by_score.values())
            text = format_value(key, metrics[key], _spread(entry, "test", score, key))
            cells.append({"text": text, "best": len(by_score) > 1 and metrics[key] == best})
        rows.append((score, cells))
    return {"heading": "", "columns": [METRICS[key].heading for key in keys], "rows": rows}


def corruption_table(entry: EvaluatedRun) -> dict[str, Any] | None:
    """Accuracy at each severity, means of AURC and AUROC of errors; None where not measured."""
    measured = entry.corruption_rows()
    if not measured:
        return None
    kinds = dict.fromkeys(row["corruption"] for row in measured if row["severity"])
    rows = [("none", [{"text": _accuracy(row), "best": False} for row in measured if not row["severity"]])]
    for kind in kinds:
        own = sorted((row for row in measured if row["corruption"] == kind), key=lambda row: row["severity"])
        means = {key: [row[key] for row in own if key in row] for key in ("aurc", "auroc_errors")}
        texts = [_accuracy(row) for row in own] + [
            format_value(key, sum(values) / len(values) if values else None) for key, values in means.items()
        ]
        rows.append((kind, [{"text": text, "best": False} for text in texts]))
    severities = [f"severity {severity}" for severity in corruptions.SEVERITIES]
    heading = f"accuracy % of {measured[0]['images']:,} test images; means of AURC ‰ and AUROC errors %"
    return {"heading": heading, "columns": [*severities, "AURC ‰", "AUROC errors %"], "rows": rows}


def _accuracy(row: dict[str, Any]) -> str:
    return format_value("accuracy", row["accuracy"])


def _run_section(entry: EvaluatedRun) -> dict[str, Any]:
    """Plots and tables of one run."""
    return {
        "label": entry.label,
        "run": entry.run.name,
        "result": entry.result,
        "figures": list(score_figures(entry)),
        "surfaces": list(surface_figures(entry)),
        "training": list(training_figures(entry.run)),
        "tables": [score_set_table(entry, metric) for metric in OPEN_TABLES] if entry.groups else [],
        "more_tables": [score_set_table(entry, metric) for metric in FOLDED_TABLES] if entry.groups else [],
        "confidences": confidence_table(entry),
        "corruptions": corruption_table(entry),
        "decision": _decision_rows(entry),
    }


def _decision_rows(entry: EvaluatedRun) -> list[tuple[str, str, str, str]] | None:
    """Images, coverage, risk and how the images were decided; None where no rule was asked for or found."""
    decision = entry.result.get("decision")
    if decision is None or not decision["reached"]:
        return None
    rows = []
    for name in ("validation", "test", "test_and_near", "test_and_far"):
        reached = decision.get(name)
        if reached is not None:
            shares = ", ".join(
                f"{kind} {reached[kind]:.1%}" for kind in ("accept", "likely-wrong", "unfamiliar")
            )
            risk = "–" if reached["risk"] is None else f"{reached['risk']:.2%}"
            rows.append((name.replace("_", " "), f"{reached['coverage']:.2%}", risk, shares))
    return rows


def _sets_of(entry: EvaluatedRun, group: str) -> list[str]:
    return [name for name, own in entry.result["groups"].items() if own == group]


def _spread(entry: EvaluatedRun, *place: str) -> Any:
    """Standard deviation or interval of the value at a place of the result; None where there is none."""
    return _at(entry.result.get("intervals") or entry.result.get("std"), place)


def _at(tree: Any, place: Sequence[str]) -> Any:
    for key in place:
        if tree is None:
            return None
        tree = tree.get(key)
    return tree


def _differences(evaluated: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """Config keys in which the runs differ, or with one run the whole config."""
    trees = [dict(flatten(entry.run.config_tree())) for entry in evaluated]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = [(key, [str(tree.get(key, "–")) for tree in trees]) for key in keys]
    return [(key, values) for key, values in rows if len(trees) == 1 or len(set(values)) > 1]


def _short_labels(runs: Sequence[RunFolder]) -> list[str]:
    """Recipe names where they tell the runs apart, full names otherwise."""
    names = [run.config_tree()["name"] for run in runs]
    return names if len(set(names)) == len(names) else [run.name for run in runs]
