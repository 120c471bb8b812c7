"""Metrics of a score table: the headline, every score as a confidence, every score on every OOD set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.schema import RunConfig
from rtk.console import Progress
from rtk.evaluate.score_table import rows_of
from rtk.evaluate.suites import GROUPS, OODSet
from rtk.metrics import (
    augrc,
    aurc,
    brier,
    ds_aurc,
    ds_f1,
    e_aurc,
    ece,
    misclassification_detection,
    nll,
    ood_detection,
    reliability_curve,
)

Columns = Mapping[str, np.ndarray]
OOD_METRICS = ("auroc", "fpr95", "aupr_in", "aupr_out", "ds_f1", "ds_aurc")
RELIABILITY_BINS = 15


def measure(
    config: RunConfig,
    table: pa.Table,
    scores: Sequence[str],
    sets: Mapping[str, OODSet],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Metrics of a score table.

    Args:
        config: names the confidence, the headline OOD score and the method of the DS metrics.
        table: of `score_table`.
        scores: names of its scores to measure.
        sets: OOD sets.
        progress: called with the number of pairs of score and set done and their total.

    Returns:
        `summary`, the headline metrics; `test`, every score as a confidence; `sets`, every score on every OOD
        set; `scores`, means of those over the near and the far sets. Values are fractions.
    """
    known = rows_of(table, "set", "test")
    correct, headline = known["is_correct"], config.evaluate.ood_score
    by_set: dict[str, dict[str, dict[str, float]]] = {}
    for done, name in enumerate(sets):
        unseen = rows_of(table, "set", name)
        by_set[name] = {}
        for number, score in enumerate(scores):
            by_set[name][score] = ood_metrics(known, unseen, config, score)
            if progress is not None:
                progress(done * len(scores) + number + 1, len(sets) * len(scores))
    by_score = {score: _grouped(by_set, sets, score) for score in scores}
    return {
        "summary": {
            **classification_metrics(known[config.evaluate.confidence], correct),
            **by_score.get(headline, {}),
        },
        "test": {score: error_metrics(known[score], correct) for score in scores},
        "scores": by_score,
        "sets": by_set,
    }


def classification_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Accuracy and how well the confidence tells right from wrong."""
    return {"accuracy": float(correct.mean()), **error_metrics(confidence, correct)}


def error_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """How well a score tells right from wrong: AURC family, AUROC and FPR95 of the errors."""
    metrics = {
        "aurc": aurc(confidence, correct),
        "e_aurc": e_aurc(confidence, correct),
        "augrc": augrc(confidence, correct),
    }
    if 0 < correct.sum() < len(correct):  # AUROC needs both kinds
        found = misclassification_detection(confidence, correct)
        metrics |= {"auroc_errors": found["auroc"], "fpr95_errors": found["fpr95"]}
    return metrics


def ood_metrics(known: Columns, unseen: Columns, config: RunConfig, score: str) -> dict[str, float]:
    """AUROC, FPR95, AUPR, DS-F1 and DS-AURC of one score on one OOD set."""
    confidence = config.evaluate.confidence
    five = (known[confidence], known[score], known["is_correct"], unseen[confidence], unseen[score])
    method = config.evaluate.ds_method
    joint = {"ds_f1": ds_f1(*five, method=method), "ds_aurc": ds_aurc(*five, method=method)}
    return {**ood_detection(known[score], unseen[score]), **joint}


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Whether the softmax means what it says: `ece`, `nll` (nats), `brier`, and the reliability curve.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    curve = reliability_curve(probabilities, labels, RELIABILITY_BINS)
    filled = curve.count > 0
    return {
        "ece": ece(probabilities, labels, RELIABILITY_BINS),
        "nll": nll(probabilities, labels),
        "brier": brier(probabilities, labels),
        "reliability": {
            "confidence": curve.confidence[filled].tolist(),
            "accuracy": curve.accuracy[filled].tolist(),
            "count": curve.count[filled].tolist(),
        },
    }


def mean_and_std(results: Sequence[Any]) -> tuple[Any, Any]:
    """Means and standard deviations, leaf by leaf, of results of one shape (the splits of a protocol).

    A leaf that some result lacks is left out: a split without a mistake has no AUROC of errors.
    """
    if not isinstance(results[0], Mapping):
        return float(np.mean(results)), float(np.std(results, ddof=1))
    shared = [key for key in results[0] if all(key in result for result in results)]
    pairs = {key: mean_and_std([result[key] for result in results]) for key in shared}
    return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}


def _grouped(by_set: Mapping[str, Any], sets: Mapping[str, OODSet], score: str) -> dict[str, float]:
    """Means over the near and over the far sets: `auroc_near`, `auroc_far` and so on."""
    grouped = {}
    for metric in OOD_METRICS:
        for group in GROUPS:
            values = [by_set[name][score][metric] for name, entry in sets.items() if entry.group == group]
            if values:
                grouped[f"{metric}_{group}"] = float(np.mean(values))
    return grouped
