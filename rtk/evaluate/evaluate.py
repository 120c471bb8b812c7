"""From a trained run to tables: predict, fit and tune scores, measure, decide, write `evaluation/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtk.config.load import ConfigError
from rtk.config.schema import RunConfig
from rtk.console import progress_bar
from rtk.evaluate import corruptions
from rtk.evaluate.decision import DecisionRule, choose_thresholds, combine, outcome
from rtk.evaluate.measure import calibration, measure, reduce_leaves
from rtk.evaluate.predict import load_model, predict_datasets, read_predictions
from rtk.evaluate.protocol import (
    TunedScores,
    draw_splits,
    error_criterion,
    fixed_scores,
    ood_criterion,
    tuned_scores,
)
from rtk.evaluate.score_table import (
    Columns,
    as_predictions,
    fit_data,
    image_scores,
    rows_of,
    score_columns,
    score_table,
    wanted_scores,
)
from rtk.evaluate.sets import VALIDATION_OOD, configured_ood, evaluation_sources
from rtk.evaluate.suites import GROUPS, OODSet
from rtk.evaluate.tables import FORMATS, pooled_rows, write_table
from rtk.ray_session import start_ray
from rtk.run_folder import RunFolder
from rtk.scores import FitData
from rtk.train.checkpoint import read_state

DECISION_FILE = "decision.json"


@dataclass(frozen=True)
class Evaluation:
    """What is fixed once the images are predicted.

    Attributes:
        config: the config the run is evaluated with.
        predictions: columns of every set, by name.
        fit: what scores are fitted on.
        sets: OOD test sets.
        names: scores to measure.
    """

    config: RunConfig
    predictions: Mapping[str, Columns]
    fit: FitData
    sets: Mapping[str, OODSet]
    names: tuple[str, ...]


def evaluate_run(
    run: RunFolder,
    config: RunConfig | None = None,
    checkpoint: str = "best",
    rows: int | None = None,
    corrupted: int | None = None,
) -> dict[str, Any]:
    """Predict, score and measure a run; write `evaluation/` and return what `metrics.json` holds.

    Args:
        run: a trained run.
        config: of `evaluation_config`; None: the run's own.
        checkpoint: `best` or `last`.
        rows: use the first so many images of every set; None: all.
        corrupted: measure common corruptions on the first so many test images, 0 for all; None: do not.

    Raises:
        ConfigError: where a set, a score or the checkpoint is missing, or images to tune on are tested on.
    """
    config = config or run.config()
    names = wanted_scores(config)
    step = read_state(run.checkpoints / checkpoint)["step"]
    sources = evaluation_sources(config, rows)
    if corrupted is not None:
        corruptions.check_corruptions(config.data.image_size, config.evaluate.confidence)
    start_ray()
    with progress_bar("predicting") as progress:
        paths = predict_datasets(run, sources, checkpoint, progress=progress, scores=image_scores(names))
    predictions = {name: read_predictions(path) for name, path in paths.items()}
    fit = fit_data(config, predictions, load_model(run, checkpoint))
    evaluation = Evaluation(config, predictions, fit, configured_ood(config), names)
    table, tuned, result = PROTOCOLS[config.evaluate.protocol](evaluation)
    result |= {"run": run.name, "checkpoint": checkpoint, "step": step}
    result["calibration"] = calibration(predictions["test"]["logits"], predictions["test"]["label"])
    if config.evaluate.risk is not None:
        result["decision"] = _decide(evaluation, tuned, table, run.evaluation / DECISION_FILE, step)
    if corrupted is not None:
        source = replace(sources["test"], rows=corrupted or sources["test"].rows)
        confidence = (config.evaluate.confidence, tuned.states[config.evaluate.confidence])
        with progress_bar("predicting corrupted images") as progress:
            shifted = corruptions.corruption_metrics(run, source, confidence, checkpoint, progress=progress)
        corruptions.write_rows(run.evaluation, [{"step": step, **row} for row in shifted])
        result["corruptions"] = corruptions.summarise(shifted)
    _write(run, table, result)
    run.append_metrics(step, _epoch_of(run, step), {f"test/{k}": value for k, value in _flat(result).items()})
    return result


def _measure_fixed(evaluation: Evaluation) -> tuple[pa.Table, TunedScores, dict[str, Any]]:
    return _measure_tuned(evaluation, fixed_scores(evaluation.config, evaluation.names, evaluation.fit))


def _measure_aps(evaluation: Evaluation) -> tuple[pa.Table, TunedScores, dict[str, Any]]:
    criterion = ood_criterion(
        evaluation.fit.validation, as_predictions(evaluation.predictions[VALIDATION_OOD])
    )
    return _measure_tuned(
        evaluation, tuned_scores(evaluation.config, evaluation.names, evaluation.fit, criterion)
    )


def _measure_tuned(
    evaluation: Evaluation, tuned: TunedScores
) -> tuple[pa.Table, TunedScores, dict[str, Any]]:
    table = score_table(evaluation.predictions, tuned.states, evaluation.sets)
    with progress_bar("measuring") as progress:
        result = measure(evaluation.config.evaluate, table, evaluation.names, evaluation.sets, progress)
    return table, tuned, {**result, **_describe(evaluation, tuned)}


def _measure_splits(evaluation: Evaluation) -> tuple[pa.Table, TunedScores, dict[str, Any]]:
    """RAT's protocol; the table, and so the report's plots, are those of the first split."""
    test, fit, outcomes = evaluation.predictions["test"], evaluation.fit, []
    for tune, rest in draw_splits(evaluation.config.seed, len(test["label"])):
        validation = as_predictions(test, tune)
        part = FitData(fit.train, validation, fit.weight, fit.bias)
        tuned = tuned_scores(evaluation.config, evaluation.names, part, error_criterion(validation))
        left = {name: values[rest] for name, values in test.items()}
        predictions = {**evaluation.predictions, "test": left}
        outcomes.append(
            _measure_tuned(
                Evaluation(evaluation.config, predictions, part, evaluation.sets, evaluation.names), tuned
            )
        )
    measured = [{key: result[key] for key in MEASURED} for _, _, result in outcomes]
    mean = reduce_leaves(measured, lambda values: float(values.mean()))
    std = reduce_leaves(measured, lambda values: float(values.std(ddof=1)))
    described = _describe(evaluation, outcomes[0][1])
    described["protocol"]["splits"] = [tuned.describe() for _, tuned, _ in outcomes]
    return outcomes[0][0], outcomes[0][1], {**mean, "std": std, **described}


MEASURED = ("summary", "test", "scores", "sets")
RESULT_KEYS = (*MEASURED, "groups", "protocol", "calibration", "step")
PROTOCOLS = {"fixed": _measure_fixed, "aps": _measure_aps, "rat_splits": _measure_splits}


def _describe(evaluation: Evaluation, tuned: TunedScores) -> dict[str, Any]:
    """What the figures were made with."""
    settings = evaluation.config.evaluate
    return {
        "ood_score": settings.ood_score,
        "confidence": settings.confidence,
        "groups": {name: entry.group for name, entry in evaluation.sets.items()},
        "paths": {
            "test": evaluation.config.data.test,
            **{name: e.path for name, e in evaluation.sets.items()},
        },
        "protocol": {"name": settings.protocol, **tuned.describe()},
    }


def _decide(
    evaluation: Evaluation, tuned: TunedScores, table: pa.Table, path: Path, step: int
) -> dict[str, Any]:
    """Choose thresholds for the wanted risk on validation images, save them, and say what they reach."""
    settings = evaluation.config.evaluate
    pair = (settings.confidence, settings.ood_score)
    states = {name: tuned.states[name] for name in pair}
    validation = evaluation.fit.validation
    known = score_columns(validation, states)
    correct = (validation.logits.argmax(1) == validation.labels).numpy()
    unseen: dict[str, np.ndarray] = {}
    if VALIDATION_OOD in evaluation.predictions:
        unseen = score_columns(as_predictions(evaluation.predictions[VALIDATION_OOD]), states)
    images = combine(known[pair[0]], known[pair[1]], correct, *(unseen[name] for name in pair if unseen))
    wanted = settings.risk or 0.0
    thresholds = choose_thresholds(images, wanted, settings.id_coverage)
    if thresholds is None:
        path.unlink(missing_ok=True)
        return {"risk": wanted, "reached": False}
    reached = {"validation": outcome(images, *thresholds), **_outcomes(table, pair, thresholds)}
    rule = DecisionRule(
        *pair,
        *thresholds,
        wanted,
        f"{int(images.is_known.sum())} validation images"
        + (
            f" and {int((~images.is_known).sum())} OOD validation images"
            if unseen
            else f", tau_ood keeping {settings.id_coverage:.0%} of them"
        ),
        {name: dict(states[name].hyperparameters) for name in pair},
        step,
    )
    rule.save(path, reached)
    return {"risk": wanted, "reached": True, "tau_id": rule.tau_id, "tau_ood": rule.tau_ood, **reached}


def _outcomes(
    table: pa.Table, pair: tuple[str, str], thresholds: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Coverage and risk on the test set alone, and with the near and the far sets."""
    known = rows_of(table, "group", "id")
    five = [*(known[name] for name in pair), known["is_correct"]]
    reached = {"test": outcome(combine(*five), *thresholds)}
    for group in GROUPS:
        unseen = rows_of(table, "group", group)
        if len(unseen["is_correct"]):
            images = combine(*five, *(unseen[name] for name in pair))
            reached[f"test_and_{group}"] = outcome(images, *thresholds)
    return reached


def read_scores(run: RunFolder) -> pa.Table:
    """The score table of an evaluated run.

    Raises:
        ConfigError: where the run has not been evaluated.
    """
    return pq.read_table(_evaluated(run, "scores.parquet"))


def read_result(run: RunFolder) -> dict[str, Any]:
    """What `evaluate_run` returned.

    Raises:
        ConfigError: where the run has not been evaluated, or by a version of rtk that wrote something else.
    """
    result: dict[str, Any] = json.loads(_evaluated(run, "metrics.json").read_text())
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        raise ConfigError(
            f"{run.name}: metrics.json lacks {missing[0]!r}, another version of rtk wrote it; "
            f"run `rtk evaluate {run.path}` again"
        )
    return result


def _evaluated(run: RunFolder, name: str) -> Path:
    path = run.evaluation / name
    if not path.exists():
        raise ConfigError(f"{run.name}: not evaluated yet, run `rtk evaluate {run.path}` first")
    return path


def _flat(result: Mapping[str, Any]) -> dict[str, float]:
    """Headline metrics under their own names, the rest as `metric/score/set`."""
    rest = {
        f"{metric}/{score}/{name}": value
        for name, by_score in result["sets"].items()
        for score, metrics in by_score.items()
        for metric, value in metrics.items()
    }
    return {**result["summary"], **rest}


def _epoch_of(run: RunFolder, step: int) -> float:
    return next((row["epoch"] for row in run.read_metrics() if row["step"] == step), 0.0)


def _write(run: RunFolder, table: pa.Table, result: dict[str, Any]) -> None:
    pq.write_table(table, run.evaluation / "scores.parquet", compression="zstd")
    (run.evaluation / "metrics.json").write_text(json.dumps(result, indent=1))
    rows = pooled_rows({run.name: result})
    for ending in FORMATS:
        write_table(run.evaluation / f"table.{ending}", rows)
