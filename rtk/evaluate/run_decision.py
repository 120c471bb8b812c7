"""A decision rule for a run: chosen on its validation images, and what it reaches on its test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.evaluate.run_protocol import Evaluation, Measured
from rtk.evaluate.score_table import as_predictions, rows_of, score_columns
from rtk.evaluate.sets import VALIDATION_OOD
from rtk.scores import FittedScore
from rtk.scores.decision import (
    DECISION_SCORES,
    DecisionRule,
    ScoredImages,
    choose_thresholds,
    combine,
    outcome,
)
from rtk.scores.storage import save_fitted

Pair = tuple[str, str]


def decide_for_run(evaluation: Evaluation, measured: Measured, path: Path, step: int) -> dict[str, Any]:
    """Choose thresholds for the wanted risk, save them at `path` and the fitted scores beside it.

    Returns:
        `risk`, wanted, and `reached`; where it was reached also `tau_id`, `tau_ood` and the outcome on the
        `validation` images, the `test` images, and these with the near and with the far sets.
    """
    settings = evaluation.config.evaluate
    wanted = settings.risk or 0.0
    pair = (settings.confidence, settings.ood_score)
    states = {name: measured.tuned.states[name] for name in pair}
    images = _validation_images(evaluation, states, pair)
    thresholds = choose_thresholds(images, wanted, settings.id_coverage)
    if thresholds is None:
        path.unlink(missing_ok=True)  # of an earlier evaluation
        return {"risk": wanted, "reached": False}
    reached = {"validation": outcome(images, *thresholds), **_outcomes(measured.table, pair, thresholds)}
    rule = DecisionRule(
        confidence=pair[0],
        ood_score=pair[1],
        tau_id=thresholds[0],
        tau_ood=thresholds[1],
        risk=wanted,
        chosen_on=_describe(images, settings.id_coverage),
        hyperparameters={name: dict(state.hyperparameters) for name, state in states.items()},
        step=step,
    )
    save_fitted(path.with_name(DECISION_SCORES), states)
    rule.save(path, reached)
    return {"risk": wanted, "reached": True, "tau_id": rule.tau_id, "tau_ood": rule.tau_ood, **reached}


def _validation_images(evaluation: Evaluation, states: dict[str, FittedScore], pair: Pair) -> ScoredImages:
    validation = evaluation.fit.validation
    id_scores = score_columns(validation, states)
    correct = (validation.logits.argmax(1) == validation.known_labels).numpy()
    if VALIDATION_OOD not in evaluation.predictions:
        return combine(id_scores[pair[0]], id_scores[pair[1]], correct)
    ood_scores = score_columns(as_predictions(evaluation.predictions[VALIDATION_OOD]), states)
    return combine(id_scores[pair[0]], id_scores[pair[1]], correct, ood_scores[pair[0]], ood_scores[pair[1]])


def _describe(images: ScoredImages, id_coverage: float) -> str:
    id_images = int(images.is_id.sum())
    ood_images = images.is_id.size - id_images
    if ood_images:
        return f"{id_images} validation images and {ood_images} OOD validation images"
    return f"{id_images} validation images, tau_ood keeping {id_coverage:.0%} of them"


def _outcomes(table: pa.Table, pair: Pair, thresholds: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """Coverage and risk on the test set alone, and with the near and the far sets."""
    id_rows = rows_of(table, "group", "id")
    five = [*(id_rows[name] for name in pair), id_rows["is_correct"]]
    reached = {"test": outcome(combine(*five), *thresholds)}
    for group in GROUPS:
        ood_rows = rows_of(table, "group", group)
        if len(ood_rows["is_correct"]):
            images = combine(*five, *(ood_rows[name] for name in pair))
            reached[f"test_and_{group}"] = outcome(images, *thresholds)
    return reached
