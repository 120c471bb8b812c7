"""A self-contained HTML page that sets runs side by side: tables, curves, histograms, the DS-F1 surface."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rtk.config.load import flatten
from rtk.evaluate import plots
from rtk.evaluate.evaluate import GROUPS, read_result, read_scores
from rtk.metrics import ds_best_thresholds, ds_f1_surface, ds_risk_coverage, risk_coverage
from rtk.run_folder import RunFolder

# How the papers show a fraction: key, heading, factor, decimals, whether larger is better.
HEADLINE = (
    ("accuracy", "accuracy %", 100, 2, True),
    ("aurc", "AURC ‰", 1000, 2, False),
    ("auroc_near", "AUROC near %", 100, 2, True),
    ("auroc_far", "AUROC far %", 100, 2, True),
    ("fpr95_near", "FPR95 near %", 100, 2, False),
    ("fpr95_far", "FPR95 far %", 100, 2, False),
    ("ds_f1_near", "DS-F1 near %", 100, 2, True),
    ("ds_f1_far", "DS-F1 far %", 100, 2, True),
    ("ds_aurc_near", "DS-AURC near ‰", 1000, 2, False),
    ("ds_aurc_far", "DS-AURC far ‰", 1000, 2, False),
)


class EvaluatedRun:
    """An evaluated run as the report needs it: result, config, and columns of its score table."""

    def __init__(self, run: RunFolder, label: str) -> None:
        self.run, self.label = run, label
        self.result = read_result(run)
        self.config = run.config()
        self.table = read_scores(run)
        self.ood_score: str = self.result["ood_score"]
        self.confidence = self.config.evaluate.confidence

    def columns(self, group: str) -> dict[str, np.ndarray]:
        """Confidence, OOD score and correctness of the images of a group (`id`, `near`, `far`)."""
        chosen = self.table.filter(pc.equal(self.table["group"], group))
        names = {"confidence": self.confidence, "ood_score": self.ood_score, "is_correct": "is_correct"}
        return {name: _array(chosen, column) for name, column in names.items()}

    def five(self, group: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arguments of the DS metrics, ID test set against all sets of a group."""
        known, unseen = self.columns("id"), self.columns(group)
        return (
            known["confidence"],
            known["ood_score"],
            known["is_correct"],
            unseen["confidence"],
            unseen["ood_score"],
        )


def write_report(runs: Sequence[RunFolder], path: Path | None = None) -> Path:
    """Write the page for one or several evaluated runs.

    Args:
        runs: evaluated runs, the baseline first.
        path: where to; None: `evaluation/report.html` of the last run.

    Raises:
        ConfigError: where a run has not been evaluated.
    """
    labels = _short_labels(runs)
    evaluated = [EvaluatedRun(run, label) for run, label in zip(runs, labels, strict=True)]
    path = path or runs[-1].evaluation / "report.html"
    page = _template().render(
        title=" and ".join(labels),
        date=time.strftime("%Y-%m-%d %H:%M"),
        headline=headline_rows(evaluated),
        curves=_curves(evaluated),
        per_run=[_run_section(entry) for entry in evaluated],
        differences=_differences(evaluated),
        environment=runs[-1].read_json("environment.json"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    return path


def headline_rows(evaluated: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """One row a metric: its heading and, for each run, the text and whether it is the best."""
    rows = []
    for key, heading, factor, decimals, larger_is_better in HEADLINE:
        values = [entry.result["summary"].get(key) for entry in evaluated]
        known = [value for value in values if value is not None]
        best = (max if larger_is_better else min)(known) if len(known) > 1 else None
        texts = ["–" if value is None else _cell(value, factor, decimals) for value in values]
        cells = [
            {"text": text, "best": v is not None and v == best} for text, v in zip(texts, values, strict=True)
        ]
        rows.append({"heading": heading, "cells": cells})
    return rows


def metric_rows(columns: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Headline metrics as table rows, headings first: a row a metric, a column for each mapping of metrics.

    Values are fractions, or lists of them (one a seed), which are shown as mean and standard deviation.
    """
    rows = [["", *columns]]
    for key, heading, factor, decimals, _ in HEADLINE:
        if any(key in metrics for metrics in columns.values()):
            cells = [
                _cell(metrics[key], factor, decimals) if key in metrics else "–"
                for metrics in columns.values()
            ]
            rows.append([heading, *cells])
    return rows


def _cell(value: float | list[float], factor: float, decimals: int) -> str:
    if isinstance(value, list):
        scaled = np.array(value) * factor
        return f"{scaled.mean():.{decimals}f} ± {scaled.std(ddof=1):.{decimals}f}"
    return f"{value * factor:.{decimals}f}"


def _curves(evaluated: Sequence[EvaluatedRun]) -> list[str]:
    """Risk-coverage of the ID set alone, and jointly with the near and the far sets."""
    alone = {}
    for entry in evaluated:
        known = entry.columns("id")
        curve = risk_coverage(known["confidence"], known["is_correct"])
        alone[entry.label] = (curve.coverage, curve.risk)
    figures = [plots.curves(alone, "Test set alone", "coverage", "risk")]
    for group in GROUPS:
        joint = {
            entry.label: ds_risk_coverage(*entry.five(group)) for entry in evaluated if _has(entry, group)
        }
        if joint:
            title = f"With {group}-OOD images, two thresholds"
            figures.append(plots.curves(joint, title, "coverage of the test set", "lowest risk"))
    return figures


def _run_section(entry: EvaluatedRun) -> dict[str, Any]:
    """Plots and tables of one run."""
    known = entry.columns("id")
    groups = [group for group in GROUPS if _has(entry, group)]
    unseen = {group: entry.columns(group) for group in groups}
    figures = []
    for kind, label in (("confidence", entry.confidence), ("ood_score", entry.ood_score)):
        parts = {"right": known[kind][known["is_correct"]], "wrong": known[kind][~known["is_correct"]]}
        parts |= {group: columns[kind] for group, columns in unseen.items()}
        title = {"confidence": "Confidence", "ood_score": "OOD score"}[kind]
        figures.append(plots.histograms(parts, title, f"{label} (larger = more trustworthy)"))
    return {
        "label": entry.label,
        "run": entry.run.name,
        "figures": figures,
        "surfaces": [_surface(entry, group) for group in groups],
        "training": _training_figures(entry.run),
        "tables": _set_tables(entry),
    }


def _surface(entry: EvaluatedRun, group: str) -> str:
    five = entry.five(group)
    best = ds_best_thresholds(*five)
    title = f"DS-F1 with {group}-OOD"
    return plots.f1_surface(
        ds_f1_surface(*five), (best.f1, best.tau_ood, best.tau_id), title, entry.ood_score
    )


def _training_figures(run: RunFolder) -> list[str]:
    """Loss terms and validation accuracy along the run."""
    rows = run.read_metrics()
    figures = []
    for prefix, title, label in (
        ("train/loss/", "Training loss", "nats"),
        ("val/acc", "Validation", "accuracy"),
    ):
        keys = dict.fromkeys(row["key"] for row in rows if row["key"].startswith(prefix))
        lines = {key.rpartition("/")[2]: _history(rows, key) for key in keys}
        if lines:
            figures.append(plots.curves(lines, title, "epoch", label, percent=False))
    return figures


def _history(rows: Sequence[dict[str, Any]], key: str) -> plots.Curve:
    chosen = [row for row in rows if row["key"] == key]
    return np.array([row["epoch"] for row in chosen]), np.array([row["value"] for row in chosen])


def _set_tables(entry: EvaluatedRun) -> list[dict[str, Any]]:
    """Per OOD set: every score with its four metrics."""
    tables = []
    for name, by_score in entry.result["sets"].items():
        rows = [
            (
                score,
                *(
                    f"{m[k] * f:.2f}"
                    for k, f in (("auroc", 100), ("fpr95", 100), ("ds_f1", 100), ("ds_aurc", 1e3))
                ),
            )
            for score, m in by_score.items()
        ]
        tables.append({"name": name, "rows": rows})
    return tables


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


def _has(entry: EvaluatedRun, group: str) -> bool:
    return bool(pc.any(pc.equal(entry.table["group"], group)).as_py())


def _array(table: pa.Table, column: str) -> np.ndarray:
    values: np.ndarray = table[column].to_numpy()
    return values


def _template() -> jinja2.Template:
    text = (resources.files("rtk.evaluate") / "report.html").read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text)
