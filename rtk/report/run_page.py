"""A self-contained HTML page that sets runs side by side: verdict, tables, curves, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from rtk.config.load import flatten
from rtk.report.classes import (
    MOST_IN_MATRIX,
    WORST_SHOWN,
    class_names,
    class_table,
    confusion_figure,
    pair_table,
)
from rtk.report.evaluated import EvaluatedRun
from rtk.report.evaluation_lines import promise_lines, rule_lines
from rtk.report.figures import (
    corruption_figures,
    f1_figures,
    risk_coverage_figures,
    score_figures,
    training_figures,
)
from rtk.report.likeness import unlike_runs
from rtk.report.page import write_page
from rtk.report.page_tables import (
    Grid,
    confidence_table,
    corruption_table,
    decision_rows,
    fit_width,
    full_spectrum_table,
    headline_rows,
    score_set_table,
)
from rtk.report.pictures import galleries
from rtk.report.radii import radius_section
from rtk.report.tables import HEADLINE
from rtk.report.verdict import image_counts, verdict
from rtk.runs.data_record import ENVIRONMENT
from rtk.runs.folder import RunFolder
from rtk.runs.origin import said_of

# Every score on every OOD set: what is shown at once, and what on a click.
OPEN_TABLES, FOLDED_TABLES = ("auroc", "ds_aurc"), ("fpr95", "ds_f1", "aupr_in", "aupr_out")


def write_report(
    runs: Sequence[RunFolder], path: Path | None = None, force: bool = False, radii: bool = False
) -> Path:
    """Write the page for one or several evaluated runs.

    Args:
        runs: evaluated runs, the baseline first.
        path: where to; None: `evaluation/report.html` of the last run.
        force: mark the best also among runs that were not measured on the same.
        radii: with the figures of RAT, see `radius_section`.

    Raises:
        ConfigError: where a run has not been evaluated, or none with a radius that is to be shown.
    """
    labels = _short_labels(runs)
    evaluated = [
        EvaluatedRun.read(run, label, number)
        for number, (run, label) in enumerate(zip(runs, labels, strict=True))
    ]
    differing = unlike_headlines(runs)
    return write_page(
        path or runs[-1].evaluation / "report.html",
        "run_page.html",
        title=" and ".join(labels),
        unlike=differing,
        headline=headline_rows(evaluated, ranked=force or not differing),
        curves=list(risk_coverage_figures(evaluated)),
        corruption_figures=list(corruption_figures(evaluated)),
        radii=radius_section(evaluated) if radii else None,
        per_run=[_run_section(entry) for entry in evaluated],
        differences=_differences(evaluated),
        environment=_environment(runs[-1]),
    )


def unlike_headlines(runs: Sequence[RunFolder]) -> list[str]:
    """What the headline metrics of runs were not measured alike on, see `unlike_runs`."""
    return unlike_runs(dict(zip(_short_labels(runs), runs, strict=True)), HEADLINE)


def _run_section(entry: EvaluatedRun) -> dict[str, Any]:
    """Plots, tables and pictures of one run."""
    maps, surfaces = f1_figures(entry)
    names = class_names(entry)
    return {
        "label": entry.label,
        "run": entry.run.name,
        "origin": said_of(entry.run.path),
        "result": entry.result,
        "verdict": verdict(entry.result),
        "images": image_counts(entry.result, _counts(entry)),
        "figures": list(score_figures(entry)),
        "maps": maps,
        "surfaces": surfaces,
        "training": list(training_figures(entry)),
        "tables": _set_tables(entry, OPEN_TABLES),
        "more_tables": _set_tables(entry, FOLDED_TABLES),
        "confidences": confidence_table(entry),
        "corruptions": corruption_table(entry),
        "full_spectrum": full_spectrum_table(entry),
        "decision": decision_rows(entry),
        "rules": rule_lines(entry.result),
        "promise": promise_lines(entry.decision or {}),
        "galleries": list(galleries(entry, names)),
        **_class_section(entry, names),
    }


def _set_tables(entry: EvaluatedRun, metrics: Sequence[str]) -> list[Grid]:
    """Every score on every OOD set; none where there is no such set."""
    return [part for metric in metrics for part in score_set_table(entry, metric)] if entry.groups else []


def _class_section(entry: EvaluatedRun, names: Sequence[str]) -> dict[str, Any]:
    """Confusion matrix, commonest mistakes, and accuracy by class: of many, the worst are shown at once."""
    table = class_table(entry, names)
    shown = len(names) if len(names) <= MOST_IN_MATRIX else WORST_SHOWN
    pairs = pair_table(entry, names)
    return {
        "confusion": confusion_figure(entry, names),
        "pairs": fit_width(pairs) if pairs.rows else [],
        "classes": fit_width(table.head(shown)),
        "all_classes": fit_width(table) if len(table.rows) > shown else [],
        "class_count": len(names),
    }


def _counts(entry: EvaluatedRun) -> Mapping[str, int]:
    return {row["values"]: row["counts"] for row in pc.value_counts(entry.table["set"]).to_pylist()}


def _differences(evaluated: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """Config keys in which the runs differ, or with one run the whole config."""
    trees = [dict(flatten(entry.run.config_tree())) for entry in evaluated]
    keys = dict.fromkeys(key for tree in trees for key in tree)
    rows = [(key, [str(tree.get(key, "–")) for tree in trees]) for key in keys]
    return [(key, values) for key, values in rows if len(trees) == 1 or len(set(values)) > 1]


def _environment(run: RunFolder) -> dict[str, Any]:
    """What a run ran on, without the names of its classes, which may be thousands."""
    environment = run.read_json(ENVIRONMENT) or {}
    return {key: value for key, value in environment.items() if key != "classes"}


def _short_labels(runs: Sequence[RunFolder]) -> list[str]:
    """Recipe names where they tell the runs apart, full names otherwise."""
    names = [run.config_tree()["name"] for run in runs]
    return names if len(set(names)) == len(names) else [run.name for run in runs]
