"""From evaluated runs to the figures of a report, each with a caption that says what good looks like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from sklearn.metrics import roc_curve

from rtk.config.data import GROUPS
from rtk.evaluate import corruptions
from rtk.evaluate.score_table import rows_of
from rtk.metrics import ds_best_thresholds, ds_f1_surface, ds_risk_coverage, risk_coverage
from rtk.report import plots
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result, read_scores

ROC_LINES = 6
Five = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Captioned(NamedTuple):
    """A figure as SVG and the sentence under it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class EvaluatedRun:
    """An evaluated run as the report needs it: its folder, a short label, its result and its score table."""

    run: RunFolder
    label: str
    result: dict[str, Any]
    table: pa.Table

    @classmethod
    def read(cls, run: RunFolder, label: str) -> EvaluatedRun:
        """Read what `rtk evaluate` wrote.

        Raises:
            ConfigError: the run has not been evaluated.
        """
        return cls(run, label, read_result(run), read_scores(run))

    @property
    def groups(self) -> list[str]:
        """Those of `near` and `far` that have images."""
        there = set(self.result["groups"].values())
        return [group for group in GROUPS if group in there]

    def column(self, group: str, kind: str) -> np.ndarray:
        """`confidence`, `ood_score` or `is_correct`, (N,), of a group (`id`, `near`, `far`)."""
        names = {"confidence": self.result["confidence"], "ood_score": self.result["ood_score"]}
        name = names.get(kind, kind)
        return self.scores_of(group, [name])[name]

    def scores_of(self, group: str, names: list[str]) -> dict[str, np.ndarray]:
        """Columns of a group; infinite scores (Gram's, far from all classes) become the last finite ones."""
        chosen = rows_of(self.table.select(["set", "group", *names]), "group", group)
        return {name: _clipped(chosen[name], self.table[name].to_numpy()) for name in names}

    def corruption_rows(self) -> list[dict[str, Any]]:
        """What `corruptions.csv` says about the evaluated checkpoint."""
        return corruptions.read_rows(self.run.evaluation, self.result["step"])

    def five(self, group: str) -> Five:
        """The arguments of the DS metrics, ID test set against all sets of a group."""
        pair = ("confidence", "ood_score")
        id_part = [self.column("id", kind) for kind in (*pair, "is_correct")]
        ood_part = [self.column(group, kind) for kind in pair]
        return id_part[0], id_part[1], id_part[2], ood_part[0], ood_part[1]


def _clipped(values: np.ndarray, all_values: np.ndarray) -> np.ndarray:
    finite = all_values[np.isfinite(all_values)]
    return values.clip(finite.min(), finite.max()) if values.dtype.kind == "f" and len(finite) else values


def risk_coverage_figures(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    """Risk-coverage of the test set alone, and jointly with the near and far sets; a line for each run."""
    alone = {}
    for entry in evaluated:
        curve = risk_coverage(entry.column("id", "confidence"), entry.column("id", "is_correct"))
        alone[entry.label] = (curve.coverage, curve.risk)
    yield Captioned(
        plots.curves(alone, "Test set alone", "coverage", "risk"),
        "Errors left when only the most confident images are accepted. Good: near zero for long, and low at "
        "full coverage. The area below is AURC.",
    )
    for group in GROUPS:
        joint = {
            entry.label: ds_risk_coverage(*entry.five(group)) for entry in evaluated if group in entry.groups
        }
        if joint:
            title = f"With {group}-OOD images, two thresholds"
            yield Captioned(
                plots.curves(joint, title, "coverage of the test set", "lowest risk"),
                f"Lowest share of wrong or {group}-OOD images among the accepted, over both thresholds. "
                "Good: low everywhere. The area below is DS-AURC.",
            )


def score_figures(entry: EvaluatedRun) -> Iterator[Captioned]:
    """Histograms of the confidence and the OOD score, ROC of the best scores, reliability."""
    correct = entry.column("id", "is_correct")
    for kind, title in (("confidence", "Confidence"), ("ood_score", "OOD score")):
        id_values = entry.column("id", kind)
        parts = {"right": id_values[correct], "wrong": id_values[~correct]}
        parts |= {group: entry.column(group, kind) for group in entry.groups}
        good = {
            "confidence": "right predictions far to the right of wrong ones",
            "ood_score": "right and wrong alike far to the right of near- and far-OOD",
        }[kind]
        yield Captioned(
            plots.histograms(parts, title, f"{entry.result[kind]} (larger = more trustworthy)"),
            f"Good: {good}. The outermost bins hold what lies beyond.",
        )
    for group in entry.groups:
        yield _roc(entry, group)
    curve = entry.result["calibration"]["reliability"]
    error = entry.result["calibration"]["ece"]
    yield Captioned(
        plots.reliability(**curve, title=f"Reliability: ECE {error:.3f}"),
        "Share of right predictions at each softmax confidence. Good: on the diagonal; below it the model is "
        "too sure of itself, above it too modest.",
    )


def surface_figures(entry: EvaluatedRun) -> Iterator[Captioned]:
    """DS-F1 over both thresholds, for the near and the far sets."""
    for group in entry.groups:
        five = entry.five(group)
        best = ds_best_thresholds(*five)
        svg = plots.f1_surface(
            ds_f1_surface(*five),
            (best.f1, best.tau_ood, best.tau_id),
            f"DS-F1 with {group}-OOD",
            entry.result["ood_score"],
        )
        yield Captioned(
            svg,
            "F1 of the accepted images at every pair of thresholds. Good: a high and broad summit, for then "
            "thresholds need not be exact; a summit at an edge means that one score does not help.",
        )


def corruption_figures(evaluated: Sequence[EvaluatedRun]) -> Iterator[Captioned]:
    """Accuracy and error AUROC against severity, means over the types; one line for each run."""
    rows = {entry.label: entry.corruption_rows() for entry in evaluated}
    for key, title, good in (
        ("accuracy", "Accuracy under corruptions", "high, and falling slowly"),
        ("auroc_errors", "AUROC of errors under corruptions", "level: errors stay as easy to tell"),
    ):
        lines = {
            label: line for label, own in rows.items() if own and len((line := _by_severity(own, key))[0])
        }
        if lines:
            yield Captioned(
                plots.curves(lines, title, "severity (0: clean)", key.replace("_", " "), percent=False),
                f"Mean over the corruption types at each severity. Good: {good}.",
            )


def training_figures(run: RunFolder) -> Iterator[Captioned]:
    """Loss terms and validation accuracy along the run."""
    rows = run.read_metrics()
    for prefix, title, label, good in (
        ("train/loss/", "Training loss", "nats", "every term falls and levels off"),
        ("val/acc", "Validation", "accuracy", "rises and levels off without falling back"),
    ):
        keys = dict.fromkeys(row["key"] for row in rows if row["key"].startswith(prefix))
        lines = {key.rpartition("/")[2]: _history(rows, key) for key in keys}
        if lines:
            yield Captioned(plots.curves(lines, title, "epoch", label, percent=False), f"Good: {good}.")


def _roc(entry: EvaluatedRun, group: str) -> Captioned:
    """ROC of the headline OOD score and of the others with the largest AUROC, all sets of a group pooled."""
    headline = entry.result["ood_score"]
    ranked = sorted(entry.result["scores"], key=lambda name: -entry.result["scores"][name][f"auroc_{group}"])
    # Some scores are functions of each other: of lines that coincide, one is enough.
    distinct = {round(entry.result["scores"][name][f"auroc_{group}"], 4): name for name in ranked[::-1]}
    others = [name for name in ranked if name in distinct.values() and name != headline]
    shown = [headline, *others][:ROC_LINES]
    id_scores, ood_scores = (entry.scores_of(part, shown) for part in ("id", group))
    is_ood = np.repeat([False, True], [len(id_scores[headline]), len(ood_scores[headline])])
    lines = {name: roc_curve(is_ood, -np.append(id_scores[name], ood_scores[name]))[:2] for name in shown}
    title = f"ROC, {group}-OOD against the test set"
    svg = plots.curves(lines, title, "test images called OOD", "OOD images found", diagonal=True)
    more = f" and the best others of {len(ranked)} scores" if others else ""
    return Captioned(svg, f"The headline score{more}. Good: close to the upper left; the diagonal is chance.")


def _by_severity(rows: Sequence[dict[str, Any]], key: str) -> plots.Curve:
    means = {
        severity: [row[key] for row in rows if row["severity"] == severity and key in row]
        for severity in range(len(corruptions.SEVERITIES) + 1)
    }
    known = {severity: float(np.mean(values)) for severity, values in means.items() if values}
    return np.array(list(known)), np.array(list(known.values()))


def _history(rows: Sequence[dict[str, Any]], key: str) -> plots.Curve:
    chosen = [row for row in rows if row["key"] == key]
    return np.array([row["epoch"] for row in chosen]), np.array([row["value"] for row in chosen])
