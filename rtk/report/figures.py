"""From evaluated runs to the figures of a report, each with a caption that says what good looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_curve

from rtk.config.data import GROUPS
from rtk.evaluate import corruptions
from rtk.metrics import ds_best_thresholds, ds_f1_surface
from rtk.report import plots
from rtk.report.curves import Curve, area, every_nth, joint_curve, selective_curve, thinned
from rtk.report.evaluated import EvaluatedRun
from rtk.report.tables import format_value, how_shown
from rtk.report.verdict import calibration_words

ROC_LINES = 6
F1_WORDS = (
    "F1 of the accepted images at every pair of thresholds. Good: a high and broad summit, for then "
    "thresholds need not be exact; a summit at an edge means that one score does not help."
)
SAME_AREA = 1e-6  # two areas that differ by less are shown with the same digits


class Captioned(NamedTuple):
    """A figure as SVG and the sentence under it."""

    svg: str
    caption: str


def run_numbers(evaluated: Sequence[EvaluatedRun]) -> dict[str, int]:
    """Number of each run of a page, by label: a figure that lacks one leaves the others their colours."""
    return {entry.label: entry.number for entry in evaluated}


def risk_coverage_figures(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    """Risk-coverage of the test set alone, and jointly with the near and far sets; a line for each run."""
    numbers = run_numbers(evaluated)
    alone = {
        entry.label: thinned(
            selective_curve(entry.column("id", "confidence"), entry.column("id", "is_correct"))
        )
        for entry in evaluated
    }
    yield Captioned(
        plots.curves(alone, "Test set alone", "coverage", "risk", numbers),
        "Errors left when only the most confident images are accepted. Good: near zero for long, and low at "
        f"full coverage. {_areas('aurc', alone, evaluated)}",
    )
    for group in GROUPS:
        joint = {entry.label: thinned(_joint(entry, group)) for entry in evaluated if group in entry.groups}
        if joint:
            title = f"With {group}-OOD images, two thresholds"
            several = max(len(entry.sets_of(group)) for entry in evaluated) > 1
            mean = f", mean over the {group} sets" if several else ""
            yield Captioned(
                plots.curves(joint, title, "coverage of the test set", "lowest risk", numbers),
                f"Lowest share of wrong or {group}-OOD images among the accepted, over both thresholds"
                f"{mean}. Good: low everywhere. {_areas(f'ds_aurc_{group}', joint, evaluated)}",
            )


def _joint(entry: EvaluatedRun, group: str) -> Curve:
    ood_pairs = [entry.pair(name) for name in entry.sets_of(group)]
    return joint_curve(entry.pair("test"), entry.column("id", "is_correct"), ood_pairs, entry.ds_method)


def _areas(key: str, lines: dict[str, Curve], evaluated: Sequence[EvaluatedRun]) -> str:
    """The areas below the lines as drawn, called by the metric's name where they are the table's value."""
    stem, unit = how_shown(key).heading.rsplit(" ", 1)
    parts = []
    for entry in evaluated:
        if entry.label in lines:
            drawn, value = area(lines[entry.label]), entry.result["summary"].get(key)
            other = "" if value is not None and abs(value - drawn) <= SAME_AREA else _explained(entry, key)
            name = f"{entry.label} " if len(evaluated) > 1 else ""
            parts.append(f"{name}{format_value(key, drawn)} {unit}{other}")
    return f"The area below is {stem}: {', '.join(parts)}."


def _explained(entry: EvaluatedRun, key: str) -> str:
    """Why the summary has another value than the area below the line of a run."""
    splits = ", the mean over the splits of which this is the first" if entry.result.get("std") else ""
    return f" (in the summary {format_value(key, entry.result['summary'].get(key))}{splits})"


def score_figures(entry: EvaluatedRun) -> Iterator[Captioned]:
    """Histograms of the confidence and the OOD score, ROC of the best scores, reliability."""
    correct = entry.column("id", "is_correct")
    rule = entry.decision or {}
    thresholds = {"confidence": None, "ood_score": None}
    if "joint" not in rule:
        tau_id = None if "tau_by_class" in rule else rule.get("tau_id")
        thresholds = {"confidence": tau_id, "ood_score": rule.get("tau_ood")}
    for kind, title in (("confidence", "Confidence"), ("ood_score", "OOD score")):
        id_values = entry.finite("id", kind)
        parts = {"right": id_values[correct], "wrong": id_values[~correct]}
        parts |= {group: entry.finite(group, kind) for group in entry.groups}
        good = {
            "confidence": "right predictions far to the right of wrong ones",
            "ood_score": "right and wrong alike far to the right of near- and far-OOD",
        }[kind]
        name = f"{entry.result[kind]} (larger = more trustworthy)"
        yield Captioned(
            plots.histograms(parts, title, name, thresholds[kind]),
            f"Good: {good}. The outermost bins hold what lies beyond.",
        )
    shown = _shown_scores(entry)
    for group in entry.groups:
        yield _roc(entry, group, shown)
    found = entry.result["calibration"]
    svg = plots.reliability(
        **found["reliability"], title=f"Reliability: ECE {found['ece']:.3f}", number=entry.number
    )
    yield Captioned(
        svg,
        "Share of right predictions at each softmax confidence. Good: on the diagonal; below it the model is "
        f"too sure of itself, above it too modest. {calibration_words(found)}".strip(),
    )


def f1_figures(entry: EvaluatedRun) -> tuple[list[Captioned], list[Captioned]]:
    """DS-F1 over both thresholds, for the near and the far sets: as maps, and the same as surfaces."""
    maps, surfaces = [], []
    rule, axis = entry.decision, entry.result["ood_score"]
    is_pair = rule is not None and not {"tau_by_class", "joint"} & rule.keys()
    chosen = (rule["tau_ood"], rule["tau_id"]) if rule and is_pair else None
    for group in entry.groups:
        five, title = entry.pooled(group), f"DS-F1 with {group}-OOD"
        best, surface = ds_best_thresholds(*five), ds_f1_surface(*five)
        svg = plots.f1_map(surface, (best.f1, best.tau_ood, best.tau_id), title, axis, chosen)
        maps.append(Captioned(svg, F1_WORDS + _pooled(entry, group)))
        svg = plots.f1_surface(surface, best.f1, title, axis)
        surfaces.append(Captioned(svg, "The same as a surface."))
    return maps, surfaces


def _pooled(entry: EvaluatedRun, group: str) -> str:
    """A sentence where a figure shows several sets as one."""
    count = len(entry.sets_of(group))
    together = f" Here the {count} {group} sets are one; the tables have the mean over them."
    return together if count > 1 else ""


def corruption_figures(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    """Accuracy and error AUROC against severity, means over the types; one line for each run."""
    rows = {entry.label: entry.corruption_rows() for entry in evaluated}
    missing = [label for label, own in rows.items() if not own]
    without = f" Not measured: {', '.join(missing)}." if missing else ""
    without += _other_corruptions(evaluated, rows)
    for key, title, good in (
        ("accuracy", "Accuracy under corruptions", "high, and falling slowly"),
        ("auroc_errors", "AUROC of errors under corruptions", "level: errors stay as easy to tell"),
    ):
        lines = {
            label: line for label, own in rows.items() if own and len((line := _by_severity(own, key))[0])
        }
        if lines:
            label = how_shown(key).heading
            yield Captioned(
                plots.histories(lines, title, "severity (0: clean)", label, run_numbers(evaluated)),
                f"Mean over the corruption types at each severity. Good: {good}.{without}",
            )


def _other_corruptions(evaluated: Sequence[EvaluatedRun], rows: Mapping[str, Sequence[Any]]) -> str:
    """Says which run was measured on which corrupted images, where these are not the same."""
    images, shown = set(), []
    for entry in evaluated:
        if rows[entry.label]:
            count, result = rows[entry.label][0]["images"], entry.result
            images.add((result.get("corrupted_data"), count))
            source = result.get("corrupted_sets", "rtk's own")
            shown.append(f"{entry.label} {source} ({count:,.0f} of each)")
    if len(images) < 2:
        return ""
    return f" Not on the same corrupted images, so not to be compared: {', '.join(shown)}."


def training_figures(entry: EvaluatedRun) -> Iterator[Captioned]:
    """Loss terms and validation accuracy along the run, with the epoch whose checkpoint was evaluated."""
    rows = entry.run.read_metrics()
    step = entry.result["step"]
    epoch = next((row["epoch"] for row in rows if row["step"] == step), None)
    mark = None if epoch is None else (epoch, f"evaluated: epoch {epoch:g}")
    for prefix, title, label, good in (
        ("train/loss/", "Training loss", "nats", "every term falls and levels off"),
        ("val/acc", "Validation", "accuracy %", "rises and levels off without falling back"),
    ):
        keys = dict.fromkeys(row["key"] for row in rows if row["key"].startswith(prefix))
        factor = 100 if label.endswith("%") else 1
        lines = {key.rpartition("/")[2]: every_nth(_history(rows, key, factor)) for key in keys}
        if lines:
            yield Captioned(plots.histories(lines, title, "epoch", label, mark=mark), f"Good: {good}.")


def _shown_scores(entry: EvaluatedRun) -> list[str]:
    """The headline OOD score and the others with the largest AUROC over all groups, the same in every ROC."""
    by_score = entry.result["scores"]
    values = {name: [own[f"auroc_{group}"] for group in entry.groups] for name, own in by_score.items()}
    ranked = sorted(values, key=lambda name: -sum(values[name]))
    # Some scores are functions of each other: of lines that coincide, one is enough.
    distinct = {tuple(round(value, 4) for value in values[name]): name for name in ranked[::-1]}
    headline = entry.result["ood_score"]
    others = [name for name in ranked if name in distinct.values() and name != headline]
    return [headline, *others][:ROC_LINES]


def _roc(entry: EvaluatedRun, group: str, shown: list[str]) -> Captioned:
    """ROC of some scores, all sets of a group pooled."""
    id_scores, ood_scores = (entry.scores_of(part, shown) for part in ("id", group))
    is_ood = np.repeat([False, True], [len(id_scores[shown[0]]), len(ood_scores[shown[0]])])
    lines = {}
    for name in shown:
        # By their ranks, which are finite: Gram's scores need not be.
        _, ranks = np.unique(np.append(id_scores[name], ood_scores[name]), return_inverse=True)
        lines[name] = thinned(roc_curve(is_ood, -ranks)[:2])
    title = f"ROC, {group}-OOD against the test set"
    svg = plots.curves(lines, title, "test images called OOD", "OOD images found", diagonal=True)
    more = f" and the best others of {len(entry.result['scores'])} scores" if len(shown) > 1 else ""
    words = f"The headline score{more}. Good: close to the upper left; the diagonal is chance."
    return Captioned(svg, words + _pooled(entry, group))


def _by_severity(rows: Sequence[dict[str, Any]], key: str) -> Curve:
    """Mean over the types at each severity, as shown in tables."""
    means = {
        severity: [row[key] for row in rows if row["severity"] == severity and key in row]
        for severity in range(len(corruptions.SEVERITIES) + 1)
    }
    factor = how_shown(key).factor
    known = {severity: factor * float(np.mean(values)) for severity, values in means.items() if values}
    return np.array(list(known)), np.array(list(known.values()))


def _history(rows: Sequence[dict[str, Any]], key: str, factor: float) -> Curve:
    chosen = [row for row in rows if row["key"] == key]
    return np.array([row["epoch"] for row in chosen]), factor * np.array([row["value"] for row in chosen])
