"""A decision rule for a run: chosen on validation or calibration images; what it reaches on test images."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError
from rtk.evaluate.run_protocol import Evaluation, Measured
from rtk.evaluate.score_table import as_predictions, rows_of, score_columns
from rtk.evaluate.set_rule import calibrated_sets
from rtk.evaluate.sets import CALIBRATION, VALIDATION_OOD
from rtk.evaluate.thresholds import Thresholds, thresholds_for
from rtk.runs.checkpoints import fetch_state, resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result
from rtk.scores import FittedScore
from rtk.scores.decision import DECISION_FILE, DECISION_SCORES, DecisionRule
from rtk.scores.storage import save_fitted
from rtk.scores.threshold_search import ScoredImages, combine
from rtk.train.checkpoint import read_state

Pair = tuple[str, str]


def decide_for_run(
    run: RunFolder, checkpoint: str, evaluation: Evaluation, measured: Measured, stamps: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose thresholds for the wanted risk; save them and the fitted scores among the run's results.

    Where no risk is wanted, or none reaches it, the rule of an earlier evaluation is removed.

    Args:
        run: the run.
        checkpoint: `best` or `last`.
        evaluation: of it.
        measured: its scores.
        stamps: what the predictions of every set were made from, by name.

    Returns:
        Nothing where no risk is wanted, or `decision`:
        `risk`, wanted, and `reached`, and the `set` that thresholds are chosen on (`validation`, or
        `calibration`); where it was reached also `tau_id`, `tau_ood` and the outcome on the images of that
        set, the `test` images, and these with the near and with the far sets; with a guarantee its `promise`
        in words, and what it costs or lacks (`rtk.evaluate.thresholds`).
    """
    settings, folder, wanted = evaluation.config.evaluate, run.evaluation, evaluation.config.evaluate.risk
    if wanted is None:
        forget_decision(folder)
        return {}
    pair = (settings.confidence, settings.ood_score)
    states = {name: measured.tuned.states[name] for name in pair}
    images, classes = calibration_images(evaluation, states, pair), evaluation.fit.validation.width[0]
    found = thresholds_for(settings, images, classes, _calibration_hash(stamps))
    if not found.reached:
        forget_decision(folder)
        return {"decision": {"risk": wanted, "reached": False, "set": evaluation.chosen_on} | found.details}
    sets, about_sets = calibrated_sets(evaluation, measured.table, found, images)
    chosen_on = evaluation.chosen_on
    reached = {chosen_on: _on_chosen(found, images), **_outcomes(measured.table, pair, found)}
    save_fitted(folder / DECISION_SCORES, states)
    rule = DecisionRule(
        confidence=pair[0],
        ood_score=pair[1],
        risk=wanted,
        chosen_on=_describe(images, chosen_on, settings.id_coverage),
        hyperparameters={name: dict(state.hyperparameters) for name, state in states.items()},
        step=read_state(run.checkpoints / checkpoint)["step"],
        made_from={**_identity(run, checkpoint, stamps), "scores": _file_hash(folder / DECISION_SCORES)},
        sets=sets,
        **found.of_rule(),
    )
    rule.save(folder / DECISION_FILE, reached | about_sets)
    return {"decision": _described(rule) | {"set": chosen_on} | found.details | reached | about_sets}


def _described(rule: DecisionRule) -> dict[str, Any]:
    """What `metrics.json` says of a rule: what decides, and what it promises."""
    described: dict[str, Any] = {"risk": rule.risk, "reached": True}
    described |= {"tau_id": rule.tau_id, "tau_ood": rule.tau_ood}
    described |= {} if rule.joint is None else {"joint": asdict(rule.joint)}
    described |= {} if rule.tau_by_class is None else {"tau_by_class": rule.tau_by_class}
    return described if rule.guarantee is None else described | {"promise": rule.promise()}


def _on_chosen(found: Thresholds, images: ScoredImages) -> dict[str, Any]:
    """Of the images that thresholds were chosen on; a guarantee is one of the ID images among them."""
    return found.outcome(images if found.guarantee is None else images.only(images.is_id))


def forget_decision(folder: Path) -> None:
    """Remove the decision rule of an earlier evaluation, and say so where there was one."""
    if (folder / DECISION_FILE).exists():
        print(
            f"{folder / DECISION_FILE}: removed, it is of an earlier evaluation; "
            "rtk evaluate RUN --risk R makes one",
            file=sys.stderr,
            flush=True,
        )
    for name in (DECISION_FILE, DECISION_SCORES):
        (folder / name).unlink(missing_ok=True)


def current_decision(run: RunFolder, checkpoint: str) -> DecisionRule:
    """The decision rule of a run, made sure to be of this checkpoint and of its last evaluation.

    Raises:
        ConfigError: there is none, or it was made from something else, which is named.
    """
    path = run.evaluation / DECISION_FILE
    rule, step = DecisionRule.load(path), read_state(run.checkpoints / checkpoint)["step"]
    measured = read_result(run).get("decision", {})
    found = {
        "checkpoint": _checkpoint_hash(run, checkpoint),
        "scores": _file_hash(run.evaluation / DECISION_SCORES),
    }
    stale = next((name for name, value in found.items() if rule.made_from.get(name, value) != value), None)
    reason = None
    if rule.step != step:
        reason = f"thresholds of step {rule.step}, but {checkpoint} is of step {step}"
    elif any(measured.get(key) != getattr(rule, key) for key in ("tau_id", "tau_ood", "tau_by_class")):
        reason = "thresholds of another evaluation than the one in metrics.json"
    elif stale is not None:
        reason = f"thresholds of another {stale} ({rule.made_from[stale][:8]}, got {found[stale][:8]})"
    if reason is not None:
        raise ConfigError(f"{path}: {reason}: run `rtk evaluate {run.place} --risk {rule.risk}` again")
    return rule


def _identity(run: RunFolder, checkpoint: str, stamps: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of what thresholds are made from: the `checkpoint`, and the `predictions` they are chosen on.

    Of images that a user gave for it there is also that of the images, `calibration`, whatever predicts them.
    """
    used = ("train", "validation", VALIDATION_OOD, CALIBRATION)
    made_from = {"checkpoint": _checkpoint_hash(run, checkpoint)}
    made_from["predictions"] = _hash({name: stamps[name] for name in used if name in stamps})
    return made_from | ({"calibration": _calibration_hash(stamps)} if CALIBRATION in stamps else {})


def _calibration_hash(stamps: Mapping[str, Any]) -> str:
    """Of content and rows of the sets that thresholds are calibrated on, whatever has predicted them."""
    known = next(name for name in (CALIBRATION, "validation", "train") if name in stamps)
    sets = [name for name in (known, VALIDATION_OOD) if name in stamps]
    return _hash({name: [stamps[name]["data"], stamps[name]["rows"]] for name in sets})


def _hash(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _checkpoint_hash(run: RunFolder, checkpoint: str) -> str:
    """Of its description: step, validation metrics to the last digit, counters of the optimiser."""
    return _file_hash(fetch_state(resolve_checkpoint(run.checkpoints / checkpoint)))


def _file_hash(path: Path) -> str:
    """SHA-256 of a file; empty where it is not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def calibration_images(evaluation: Evaluation, states: Mapping[str, FittedScore], pair: Pair) -> ScoredImages:
    """Images to choose thresholds on, and OOD ones where there are any, by a confidence and an OOD score."""
    images = evaluation.calibration
    predicted = images.logits.argmax(1).numpy()
    correct = predicted == images.known_labels.numpy()
    known = score_columns(images, {name: states[name] for name in pair})
    if VALIDATION_OOD not in evaluation.predictions:
        return combine(known[pair[0]], known[pair[1]], correct, predicted=predicted)
    others = as_predictions(evaluation.predictions[VALIDATION_OOD])
    scores = score_columns(others, {name: states[name] for name in pair})
    both = np.append(predicted, others.logits.argmax(1).numpy())
    return combine(known[pair[0]], known[pair[1]], correct, scores[pair[0]], scores[pair[1]], both)


def _describe(images: ScoredImages, kind: str, id_coverage: float) -> str:
    id_images = int(images.is_id.sum())
    ood_images = images.is_id.size - id_images
    if ood_images:
        return f"{id_images} {kind} images and {ood_images} OOD validation images"
    return f"{id_images} {kind} images, tau_ood keeping {id_coverage:.0%} of them"


def _outcomes(table: pa.Table, pair: Pair, found: Thresholds) -> dict[str, dict[str, Any]]:
    """Coverage and risk on the test set alone, and with the near and the far sets."""
    known = rows_of(table, "group", "id")
    id_scores = (known[pair[0]], known[pair[1]], known["is_correct"])
    reached = {"test": found.outcome(combine(*id_scores, predicted=known["prediction"]))}
    for group in GROUPS:
        others = rows_of(table, "group", group)
        if len(others["is_correct"]):
            both = np.append(known["prediction"], others["prediction"])
            images = combine(*id_scores, others[pair[0]], others[pair[1]], both)
            reached[f"test_and_{group}"] = found.outcome(images)
    return reached
