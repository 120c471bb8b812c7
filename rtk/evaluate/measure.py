"""Metrics of a score table: each score as a confidence on the test set, and on every OOD set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.config.schema import EvaluateConfig
from rtk.evaluate.score_table import rows_of
from rtk.evaluate.suites import OODSet
from rtk.metrics import (
    adaptive_ece,
    brier,
    ece,
    joint_metrics,
    misclassification_detection,
    nll,
    ood_detection,
    reliability_curve,
    resample_rows,
    selective_classification,
)
from rtk.runtime.console import Progress
from rtk.runtime.parallel import in_parallel, in_turn
from rtk.scores import Predictions, fit_temperature

RELIABILITY_BINS = 15
LEVEL = 0.95  # of bootstrap intervals
QUICK = 100_000  # images, times scores and resamples: up to so many are measured before a task has started


@dataclass(frozen=True)
class ScoreColumns:
    """One score, and the confidence beside it, of the test set or of an OOD set.

    Attributes:
        confidence: (N,).
        score: (N,).
        is_correct: (N,) booleans; meaningless for an OOD set.
        group: `id`, `near` or `far`.
    """

    confidence: np.ndarray
    score: np.ndarray
    is_correct: np.ndarray
    group: str

    def take(self, rows: np.ndarray) -> ScoreColumns:
        """Some rows, with repetitions where a number is repeated."""
        return ScoreColumns(self.confidence[rows], self.score[rows], self.is_correct[rows], self.group)


def measure(
    settings: EvaluateConfig,
    table: pa.Table,
    scores: Sequence[str],
    sets: Mapping[str, OODSet],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of a score table, a Ray task for each score where there is enough to do.

    Args:
        settings: name the confidence, the headline OOD score, the method of the DS metrics and the resamples.
        table: of `score_table`.
        scores: names of its scores to measure, the confidence and the headline score among them.
        sets: OOD sets.
        progress: called with the number of scores measured and their total.

    Returns:
        `summary`, the headline metrics; `test`, every score as a confidence; `sets`, every score on every OOD
        set; `scores`, means of those over the near and the far sets; where `settings.bootstrap` is not 0
        `intervals`, the same tree with the ends of 95 % intervals. Values are fractions.
    """
    rows = {name: rows_of(table, "set", name) for name in ("test", *sets)}
    groups = {"test": "id", **{name: entry.group for name, entry in sets.items()}}
    arguments = [
        (
            {
                name: ScoreColumns(own[settings.confidence], own[score], own["is_correct"], groups[name])
                for name, own in rows.items()
            },
            settings.ds_method,
            settings.bootstrap,
        )
        for score in scores
    ]
    amount = len(table) * len(scores) * max(1, settings.bootstrap)
    pairs = (in_turn if amount <= QUICK else in_parallel)(measure_score, arguments, progress)
    measured = {score: metrics for score, (metrics, _) in zip(scores, pairs, strict=True)}
    result = _by_place(settings, measured)
    if settings.bootstrap:
        intervals = {score: ends for score, (_, ends) in zip(scores, pairs, strict=True)}
        result["intervals"] = _by_place(settings, intervals)
    return result


def measure_full_spectrum(
    settings: EvaluateConfig,
    table: pa.Table,
    shifted: pa.Table,
    scores: Sequence[str],
    sets: Mapping[str, OODSet],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """As `measure`, images of the classes under covariate shift counting as test images (OpenOOD's FSOOD).

    Args:
        settings: see there.
        table: see there.
        shifted: likewise, of the covariate-shifted sets.
        scores: see there.
        sets: see there.
        progress: see there.

    Returns:
        What `measure` does, and `csid`: for every covariate-shifted set alone every score as a confidence.
    """
    renamed = shifted.set_column(0, "set", pa.array(["test"] * len(shifted)))
    found = measure(settings, pa.concat_tables([table, renamed]), scores, sets, progress)
    alone = {}
    for name in dict.fromkeys(shifted["set"].to_pylist()):
        own = rows_of(shifted, "set", name)
        alone[name] = {score: error_metrics(own[score], own["is_correct"]) for score in scores}
    return {**found, "csid": alone}


def measure_score(
    columns: Mapping[str, ScoreColumns], ds_method: str, resamples: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of one score, and the ends of their bootstrap intervals (empty for no resamples).

    A resample holds as many images of each set as there are, and the same test images against every OOD set.
    """
    metrics = score_metrics(columns, ds_method)
    if not resamples:
        return metrics, {}
    sizes = [len(own.score) for own in columns.values()]
    drawn = [
        score_metrics(
            {name: own.take(rows) for (name, own), rows in zip(columns.items(), draw, strict=True)}, ds_method
        )
        for draw in resample_rows(sizes, resamples, seed=0)
    ]
    return metrics, reduce_leaves(drawn, _interval_ends)


def score_metrics(columns: Mapping[str, ScoreColumns], ds_method: str) -> dict[str, Any]:
    """`test`: the score as a confidence; `sets`: on each OOD set; `means`: over the near and the far sets."""
    id_columns = columns["test"]
    by_set = {
        name: ood_metrics(id_columns, own, ds_method) for name, own in columns.items() if name != "test"
    }
    means = {}
    for group in GROUPS:
        members = [metrics for name, metrics in by_set.items() if columns[name].group == group]
        for metric in members[0] if members else ():
            means[f"{metric}_{group}"] = float(np.mean([metrics[metric] for metrics in members]))
    return {"test": error_metrics(id_columns.score, id_columns.is_correct), "sets": by_set, "means": means}


def error_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Accuracy, and how well a score tells right from wrong: AURC family; AUROC, FPR95, AUPR of errors."""
    metrics = selective_classification(confidence, correct)
    if 0 < correct.sum() < len(correct):  # AUROC needs both kinds
        found = misclassification_detection(confidence, correct)
        metrics |= {"auroc_errors": found["auroc"], "fpr95_errors": found["fpr95"]}
        metrics |= {"aupr_success": found["aupr_success"], "aupr_errors": found["aupr_error"]}
    return metrics


def ood_metrics(
    id_columns: ScoreColumns, ood_columns: ScoreColumns, ds_method: Any = "exact"
) -> dict[str, float]:
    """AUROC, FPR95, AUPR of one score on one OOD set; F1 and AURC with its threshold alone, and with both."""
    five = (
        id_columns.confidence,
        id_columns.score,
        id_columns.is_correct,
        ood_columns.confidence,
        ood_columns.score,
    )
    return {**ood_detection(id_columns.score, ood_columns.score), **joint_metrics(*five, method=ds_method)}


def calibration(logits: np.ndarray, labels: np.ndarray, validation: Predictions) -> dict[str, Any]:
    """Whether the softmax means what it says: `ece`, `adaptive_ece`, `nll` (nats), `brier`, `reliability`.

    And what would mend it: `temperature`, fitted on validation images, and `ece_at_temperature`.

    Args:
        logits: (N, C), of the test images.
        labels: (N,).
        validation: predictions for the validation images.
    """
    probabilities = _softmax(logits)
    temperature = fit_temperature(validation.logits, validation.known_labels)
    curve = reliability_curve(probabilities, labels, RELIABILITY_BINS)
    filled = curve.count > 0
    return {
        "ece": ece(probabilities, labels, RELIABILITY_BINS),
        "adaptive_ece": adaptive_ece(probabilities, labels, RELIABILITY_BINS),
        "nll": nll(probabilities, labels),
        "brier": brier(probabilities, labels),
        "temperature": temperature,
        "ece_at_temperature": ece(_softmax(logits / temperature), labels, RELIABILITY_BINS),
        "reliability": {
            "confidence": curve.confidence[filled].tolist(),
            "accuracy": curve.accuracy[filled].tolist(),
            "count": curve.count[filled].tolist(),
        },
    }


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C), in float64."""
    shifted: np.ndarray = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def reduce_leaves(results: Sequence[Any], function: Callable[[np.ndarray], Any]) -> Any:
    """A function of the values at each leaf of results of one shape (splits, resamples).

    A leaf that some result lacks is left out: a split without a mistake has no AUROC of errors.
    """
    if not isinstance(results[0], Mapping):
        return function(np.array(results))
    shared = [key for key in results[0] if all(key in result for result in results)]
    return {key: reduce_leaves([result[key] for result in results], function) for key in shared}


def _by_place(settings: EvaluateConfig, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Turn results by score into the result's `summary`, `test`, `scores` and `sets`."""
    names = next(iter(measured.values()))["sets"]
    return {
        "summary": {**measured[settings.confidence]["test"], **measured[settings.ood_score]["means"]},
        "test": {score: own["test"] for score, own in measured.items()},
        "scores": {score: own["means"] for score, own in measured.items()},
        "sets": {name: {score: own["sets"][name] for score, own in measured.items()} for name in names},
    }


def _interval_ends(values: np.ndarray) -> list[float]:
    ends: list[float] = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return ends
