"""From a trained run to tables: predict, fit and tune scores, measure, decide, write `evaluation/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rtk.config.errors import ConfigError
from rtk.config.metric_names import FULL_SPECTRUM
from rtk.config.schema import RunConfig
from rtk.data.decode.pipeline import Selection
from rtk.data.sets.class_names import labels_hash
from rtk.data.sets.dataset import ImageDataset
from rtk.evaluate import corruptions
from rtk.evaluate.actors import Predict
from rtk.evaluate.ensemble import check_ensemble
from rtk.evaluate.joined_predictions import join_predictions
from rtk.evaluate.joint_rules import compare_rules
from rtk.evaluate.measure import calibration
from rtk.evaluate.model import load_model
from rtk.evaluate.pool import Pool
from rtk.evaluate.predict import fitted_files, predict_datasets
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.evaluate.reuse import DECIDED_ON, SETTINGS
from rtk.evaluate.run_decision import decide_for_run
from rtk.evaluate.run_protocol import PROTOCOLS, Evaluation, Measured
from rtk.evaluate.score_table import as_predictions, fit_data
from rtk.evaluate.sets import CALIBRATION, binding_record, configured_ood, evaluation_selections
from rtk.evaluate.shifted import corrupted_selections, images_hash, shifted_columns, shifted_scores
from rtk.evaluate.throughput import measure_throughput, note_throughput
from rtk.evaluate.undecodable import leave_out_undecodable
from rtk.runs.atomic import replacing, write_json
from rtk.runs.checkpoint_faults import check_whole
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.data_record import remember_classes
from rtk.runs.folder import RunFolder
from rtk.runtime.console import progress_bar
from rtk.scores.selection import image_columns, wanted_scores
from rtk.tracking.uploading import check_reachable
from rtk.train.checkpoint import read_state


def evaluate_run(
    run: RunFolder,
    config: RunConfig | None = None,
    checkpoint: str = "best",
    rows: int | None = None,
    corrupted: int | None = None,
    corrupted_sets: str | None = None,
) -> dict[str, Any]:
    """Predict, score and measure a run; write `evaluation/` and return what `metrics.json` holds.

    Args:
        run: a trained run.
        config: of `evaluation_config`; None: the run's own.
        checkpoint: `best` or `last`.
        rows: number of images to use of every set, the first ones; None: all.
        corrupted: number of test images, the first ones, to measure corruptions on; 0: all; None: none.
        corrupted_sets: folder of sets that others have corrupted, to measure in place of these; None: none.

    Raises:
        ConfigError: where a set or a score is missing, or images to tune on are tested on.
        CheckpointError: the checkpoint is missing or damaged.
        BadImageError: an image cannot be decoded, or too many where `data.on_error` is `skip`.
    """
    config = config or run.config()
    wanted_scores(config.evaluate, config.model.name)  # refused here, if one is unknown
    state = read_state(run.checkpoints / checkpoint)  # refused here, if it is missing
    check_whole(resolve_checkpoint(run.checkpoints / checkpoint))  # before every actor reads it
    selections = evaluation_selections(config, rows, binding_record(run, config))
    _check_classes(selections["train"].dataset, state["num_classes"])
    shifted = _shifted(config, selections, rows, corrupted, corrupted_sets)
    check_ensemble(run, config)
    check_reachable(run.path)
    selections = leave_out_undecodable(selections, config.data, run.evaluation)
    with Pool(run, checkpoint, config.evaluate) as pool:
        return _evaluate(pool, config, selections, shifted)


@dataclass(frozen=True)
class Shifted:
    """What to measure under corruption.

    Attributes:
        rows: number of test images to corrupt, the first ones; 0: all; None: none.
        folder: of sets that others have corrupted; None: there is none.
        sets: these.
    """

    rows: int | None = None
    folder: str | None = None
    sets: Mapping[str, Selection] = field(default_factory=dict)


def _shifted(
    config: RunConfig,
    selections: Mapping[str, Selection],
    rows: int | None,
    corrupted: int | None,
    folder: str | None,
) -> Shifted:
    """What to measure under corruption, checked before anything is predicted."""
    if folder is None:
        if corrupted is not None:
            corruptions.check_corruptions(config.data.image_size)
        return Shifted(corrupted)
    if corrupted is not None:
        raise ConfigError("--corrupted: got --corruptions too, wanted one of them")
    classes = selections["train"].dataset.classes
    return Shifted(None, folder, corrupted_selections(folder, config, classes, rows))


def _evaluate(
    pool: Pool, config: RunConfig, selections: Mapping[str, Selection], shifted: Shifted
) -> dict[str, Any]:
    """`evaluate_run`, once its settings have been checked and Ray is there."""
    run, backbone = pool.run, config.model.name
    names = wanted_scores(config.evaluate, backbone)
    step = read_state(run.checkpoints / pool.checkpoint)["step"]
    with progress_bar("predicting") as progress:
        columns = image_columns(config.evaluate, backbone)
        join_predictions(run, selections, pool.checkpoint)
        paths = predict_datasets(pool, selections, progress, columns)
    predictions = {name: read_predictions(path) for name, path in paths.items()}
    stamps = {name: read_stamp(path)["predictions"] for name, path in paths.items()}
    remember_classes(run.path, selections["train"].dataset.classes)
    fit = fit_data(config, predictions, load_model(run, pool.checkpoint))
    evaluation = Evaluation(config, predictions, fit, configured_ood(config), names)
    measured = PROTOCOLS[config.evaluate.protocol](evaluation)
    result = measured.result | {"run": run.name, "checkpoint": pool.checkpoint, "step": step}
    result[SETTINGS] = config.evaluate.model_dump(mode="json")
    tested = predictions["test"]
    note_throughput(run.evaluation, measure_throughput(measured.tuned.states, as_predictions(tested)))
    result["calibration"] = calibration(tested["logits"], tested["label"], fit.validation)
    result |= _measured_on(selections, (*config.data.csid, *evaluation.sets), stamps)
    result["fitted_on"] = {"train": len(fit.train), "validation": len(fit.validation)}
    if shifted.rows is not None or shifted.sets:
        result |= _measure_corruptions(pool, selections, measured, result, shifted)
    result |= compare_rules(evaluation, measured)
    result |= decide_for_run(run, pool.checkpoint, evaluation, measured, stamps)
    result |= _decided_on(config, stamps)
    _write(run, measured.table, result)
    run.append_metrics(step, _epoch_of(run, step), {f"test/{k}": value for k, value in _flat(result).items()})
    return result


def _check_classes(train: ImageDataset, logits: int) -> None:
    """Refuse training images of fewer or more classes than a network has, which imported weights may meet.

    Raises:
        ConfigError: naming both numbers.
    """
    if len(train.classes) != logits:
        raise ConfigError(
            f"data.train: {train.path} has {len(train.classes)} classes, wanted {logits}, a class a logit"
        )


def _measured_on(
    selections: Mapping[str, Selection], others: Iterable[str], stamps: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Which images were measured, by set, what their labels were read as, and how many were left out."""
    images = {name: {key: stamps[name][key] for key in ("data", "rows")} for name in ("test", *others)}
    images["test"]["labels"] = labels_hash(selections["test"].dataset)
    skipped = {name: len(one.left_out) for name, one in selections.items() if one.left_out}
    return {"skipped": skipped, "measured_on": images}


def _decided_on(config: RunConfig, stamps: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which images thresholds were chosen on, where they were given for that."""
    given = stamps.get(CALIBRATION)
    if given is None:
        return {}
    return {DECIDED_ON: {"path": config.data.calibration, **{key: given[key] for key in ("data", "rows")}}}


def _measure_corruptions(
    pool: Pool,
    selections: Mapping[str, Selection],
    measured: Measured,
    result: Mapping[str, Any],
    shifted: Shifted,
) -> dict[str, Any]:
    """Means over all corruptions; a row for each and each score is written, with what it was measured on."""
    states = {name: measured.tuned.states[name] for name in shifted_scores(pool.settings)}
    of_images = shifted_columns(states)
    predict = Predict(True, of_images, fitted_files(pool, of_images, selections) if of_images else {})
    with progress_bar("predicting corrupted images") as progress:
        if shifted.sets:
            images = {"images": len(selections["test"])}
            clean = {name: images | result["test"][name] for name in states}
            rows = corruptions.prepared_scores(pool, shifted.sets, clean, states, predict, progress)
        else:
            chosen = selections["test"].first(shifted.rows) if shifted.rows else selections["test"]
            rows = corruptions.corruption_scores(pool, chosen, states, progress=progress, predict=predict)
    about = {"step": result["step"], **corruptions.measured_with(result)}
    every = [{**about, "confidence": score, **row} for score, own in rows.items() for row in own]
    corruptions.write_rows(pool.run.evaluation, every)
    means = {score: corruptions.summarise(own) for score, own in rows.items()}
    found: dict[str, Any] = {"corruptions": means[pool.settings.confidence]}
    found |= {"corruptions_by_score": means} if len(means) > 1 else {}
    if shifted.folder:
        found |= {"corrupted_sets": shifted.folder, "corrupted_data": images_hash(shifted.sets)}
    return found


def _flat(result: Mapping[str, Any]) -> dict[str, float]:
    """Headline metrics by name, of the full spectrum `full_spectrum/NAME`, the rest as `metric/score/set`."""
    rest = {
        f"{metric}/{score}/{name}": value
        for name, by_score in result["sets"].items()
        for score, metrics in by_score.items()
        for metric, value in metrics.items()
    }
    full = result.get("full_spectrum", {}).get("summary", {})
    return {**result["summary"], **rest, **{f"{FULL_SPECTRUM}{key}": value for key, value in full.items()}}


def _epoch_of(run: RunFolder, step: int) -> float:
    return next((row["epoch"] for row in run.read_metrics() if row["step"] == step), 0.0)


def _write(run: RunFolder, table: pa.Table, result: dict[str, Any]) -> None:
    with replacing(run.evaluation / "scores.parquet") as partial:
        pq.write_table(table, partial, compression="zstd")
    write_json(run.evaluation / "metrics.json", result)
