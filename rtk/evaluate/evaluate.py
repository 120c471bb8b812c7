"""From a trained run to a table: scores x OOD sets x metrics, and one headline row."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.config.load import ConfigError
from rtk.config.schema import RunConfig
from rtk.console import Progress
from rtk.data.catalog import resolve_path
from rtk.data.dataset import check_labels, open_dataset
from rtk.data.epochs import holdout_split
from rtk.data.pipeline import Source
from rtk.evaluate.predict import load_model, predict_datasets, read_predictions
from rtk.metrics import aurc, ds_aurc, ds_f1, e_aurc, misclassification_detection, ood_detection
from rtk.models import Classifier
from rtk.ray_session import start_ray
from rtk.run_folder import RunFolder
from rtk.scores import SCORES, FitData, Predictions, apply_score, expand_scores, fit_score
from rtk.train.checkpoint import read_state

GROUPS = ("near", "far")
# OpenOOD v1.5's grouping for CIFAR-10/100 in-distribution; any other set names its group itself.
KNOWN_GROUPS = {
    "near": ("cifar10", "cifar100", "tin", "tiny_imagenet"),
    "far": ("mnist", "svhn", "street_chars", "textures", "dtd", "dtd10", "places365", "intel_scenes"),
}


@dataclass(frozen=True)
class OODSet:
    """An out-of-distribution test set: its name, `near` or `far`, and its path."""

    name: str
    group: str
    path: str


def parse_ood(text: str) -> OODSet:
    """`NAME=PATH` for a set that OpenOOD groups, `near:NAME=PATH` or `far:NAME=PATH` for any.

    Raises:
        ConfigError: where the form is another or the group is not known.
    """
    label, equals, path = text.partition("=")
    group, colon, name = label.rpartition(":")
    if not equals or not name or not path:
        raise ConfigError(f"--ood: got {text!r}, wanted NAME=PATH, near:NAME=PATH or far:NAME=PATH")
    if not colon:
        group = next((g for g, names in KNOWN_GROUPS.items() if name in names), "")
    if group not in GROUPS:
        raise ConfigError(f"--ood: is {name!r} near or far? Say near:{name}=PATH or far:{name}=PATH")
    return OODSet(name, group, path)


def configured_ood(config: RunConfig) -> list[OODSet]:
    """OOD test sets of the recipe."""
    near = [OODSet(name, "near", path) for name, path in config.data.near_ood.items()]
    return near + [OODSet(name, "far", path) for name, path in config.data.far_ood.items()]


def evaluate_run(
    run: RunFolder,
    ood: list[OODSet] | None = None,
    scores: tuple[str, ...] | None = None,
    test: str | None = None,
    checkpoint: str = "best",
    rows: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predict, score and measure a run; write `evaluation/` and return what `metrics.json` holds.

    Args:
        run: a trained run.
        ood: OOD test sets beside, or instead of those of the same name in, the recipe's.
        scores: names of OOD scores, `all` for every one; None: the recipe's.
        test: Parquet of the in-distribution test set; None: the recipe's.
        checkpoint: `best` or `last`.
        rows: use the first so many images of every set; None: all.
        progress: called with the number of images predicted and their total.

    Raises:
        ConfigError: where a set, a score or the checkpoint is missing.
    """
    config = run.config()
    sets = {entry.name: entry for entry in [*configured_ood(config), *(ood or [])]}
    names = expand_scores(scores or config.evaluate.scores)
    wanted = expand_scores([*names, config.evaluate.confidence, config.evaluate.ood_score])
    of_images = tuple(name for name in wanted if SCORES[name].inputs == "images")
    step = read_state(run.checkpoints / checkpoint)["step"]
    sources = evaluation_sources(config, sets, test, rows)
    start_ray()
    paths = predict_datasets(run, sources, checkpoint, progress=progress, scores=of_images)
    predictions = {name: read_predictions(path) for name, path in paths.items()}
    fit = fit_data(config, predictions, load_model(run, checkpoint))
    table = score_table(config, predictions, wanted, fit, sets)
    result = measure(config, table, names, sets)
    result |= {"run": run.name, "checkpoint": checkpoint, "step": step}
    _write(run, table, result)
    epoch = _epoch_of(run, step)
    run.append_metrics(step, epoch, {f"test/{key}": value for key, value in _flat(result).items()})
    return result


def evaluation_sources(
    config: RunConfig, sets: Mapping[str, OODSet], test: str | None, rows: int | None = None
) -> dict[str, Source]:
    """Sets that an evaluation predicts: `train` (to fit scores), `validation`, `test` and the OOD sets."""
    size = config.data.image_size
    test_path = test or config.data.test
    if test_path is None:
        raise ConfigError("data.test: got null, wanted the in-distribution test set (--test PATH)")
    reserved = [name for name in sets if name in ("train", "validation", "test")]
    if reserved:
        raise ConfigError(f"--ood: the name {reserved[0]!r} is taken by the in-distribution sets")
    train = open_dataset(resolve_path(config.data.train))
    sources = {"train": Source(train, size, rows or config.data.train_rows)}
    if config.data.validation is not None:
        sources["validation"] = Source(open_dataset(resolve_path(config.data.validation)), size, rows)
    sources["test"] = Source(_open(test_path, "data.test"), size, rows)
    check_labels(sources["test"].dataset, len(train.classes))
    for name, entry in sets.items():
        sources[name] = Source(_open(entry.path, f"--ood {name}"), size, rows)
    return sources


def _open(path: str, key: str) -> Any:
    try:
        return open_dataset(resolve_path(path), need_classes=False)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def _tensors(columns: Mapping[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> Predictions:
    logits, features, targets = (
        torch.from_numpy(columns[name][rows].copy()) for name in ("logits", "features", "label")
    )
    scores = {name: torch.from_numpy(columns[name][rows].copy()) for name in columns if name in SCORES}
    return Predictions(logits, features, targets, scores)


def fit_data(
    config: RunConfig, predictions: Mapping[str, dict[str, np.ndarray]], model: Classifier
) -> FitData:
    """What scores are fitted on: un-augmented training and validation images and the head."""
    train = predictions["train"]
    kept: np.ndarray | slice = slice(None)
    if "validation" in predictions:
        validation = _tensors(predictions["validation"])
    else:
        rows = len(train["label"])
        kept, held = holdout_split(config.seed, rows, config.data.validation_fraction)
        validation = _tensors(train, held)
    return FitData(_tensors(train, kept), validation, *model.head.used_weights())


def score_table(
    config: RunConfig,
    predictions: Mapping[str, dict[str, np.ndarray]],
    names: tuple[str, ...],
    fit: FitData,
    sets: Mapping[str, OODSet],
) -> pa.Table:
    """One row an image of the test and OOD sets: `set`, `group`, ids, `is_correct` and every score."""
    bank = len(fit.train.labels)
    settings = {"knn": {"k": min(config.evaluate.knn_k, bank)}, "nnguide": {"k": min(100, bank)}}
    states = {name: fit_score(name, fit, **settings.get(name, {})) for name in names}
    parts = []
    for name in ("test", *sets):
        columns, inputs = predictions[name], _tensors(predictions[name])
        known: dict[str, Any] = {key: columns[key] for key in ("sample_id", "label", "prediction")}
        known["is_correct"] = columns["label"] == columns["prediction"]
        known |= {score: apply_score(score, states[score], inputs).double().numpy() for score in names}
        group = sets[name].group if name in sets else "id"
        count = len(columns["label"])
        parts.append(pa.table({"set": [name] * count, "group": [group] * count, **known}))
    return pa.concat_tables(parts)


def measure(
    config: RunConfig, table: pa.Table, scores: tuple[str, ...], sets: Mapping[str, OODSet]
) -> dict[str, Any]:
    """Metrics of a score table.

    Returns:
        `summary`, the headline metrics with `evaluate.ood_score`; `scores`, the same for every score;
        `sets`, every score on every OOD set. Values are fractions.
    """
    known = _rows(table, "test")
    confidence, correct = known[config.evaluate.confidence], known["is_correct"]
    classification = classification_metrics(confidence, correct)
    headline = config.evaluate.ood_score
    measured = tuple(dict.fromkeys([*scores, headline]))
    by_set = {
        name: {score: ood_metrics(known, _rows(table, name), config, score) for score in measured}
        for name in sets
    }
    by_score = {score: _grouped(by_set, sets, score) for score in measured}
    summary = {**classification, **by_score[headline]}
    return {"summary": summary, "ood_score": headline, "scores": by_score, "sets": by_set}


def classification_metrics(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Accuracy and how well the confidence tells right from wrong."""
    metrics = {
        "accuracy": float(correct.mean()),
        "aurc": aurc(confidence, correct),
        "e_aurc": e_aurc(confidence, correct),
    }
    if 0 < correct.sum() < len(correct):  # AUROC needs both kinds
        found = misclassification_detection(confidence, correct)
        metrics |= {"auroc_errors": found["auroc"], "fpr95_errors": found["fpr95"]}
    return metrics


def ood_metrics(
    known: Mapping[str, np.ndarray], unseen: Mapping[str, np.ndarray], config: RunConfig, score: str
) -> dict[str, float]:
    """AUROC, FPR95, DS-F1 and DS-AURC of one score on one OOD set."""
    detection = ood_detection(known[score], unseen[score])
    confidence = config.evaluate.confidence
    five = (known[confidence], known[score], known["is_correct"], unseen[confidence], unseen[score])
    method = config.evaluate.ds_method
    joint = {"ds_f1": ds_f1(*five, method=method), "ds_aurc": ds_aurc(*five, method=method)}
    return {"auroc": detection["auroc"], "fpr95": detection["fpr95"], **joint}


def _grouped(by_set: Mapping[str, Any], sets: Mapping[str, OODSet], score: str) -> dict[str, float]:
    """Means over the near and over the far sets: `auroc_near`, `auroc_far` and so on."""
    grouped = {}
    for metric in ("auroc", "fpr95", "ds_f1", "ds_aurc"):
        for group in GROUPS:
            values = [by_set[name][score][metric] for name, entry in sets.items() if entry.group == group]
            if values:
                grouped[f"{metric}_{group}"] = float(np.mean(values))
    return grouped


def read_scores(run: RunFolder) -> pa.Table:
    """The score table of an evaluated run.

    Raises:
        ConfigError: where the run has not been evaluated.
    """
    return pq.read_table(_evaluated(run, "scores.parquet"))


def read_result(run: RunFolder) -> dict[str, Any]:
    """What `evaluate_run` returned.

    Raises:
        ConfigError: where the run has not been evaluated.
    """
    result: dict[str, Any] = json.loads(_evaluated(run, "metrics.json").read_text())
    return result


def _evaluated(run: RunFolder, name: str) -> Path:
    path = run.evaluation / name
    if not path.exists():
        raise ConfigError(f"{run.name}: not evaluated yet, run `rtk evaluate {run.path}` first")
    return path


def _rows(table: pa.Table, name: str) -> dict[str, np.ndarray]:
    chosen = table.filter(pa.compute.equal(table["set"], name))
    return {
        column: chosen[column].to_numpy() for column in chosen.column_names if column not in ("set", "group")
    }


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
    with (run.evaluation / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["set", "score", "metric", "value"])
        writer.writerows(["test", "", key, value] for key, value in result["summary"].items())
        for name, by_score in result["sets"].items():
            for score, metrics in by_score.items():
                writer.writerows([name, score, key, value] for key, value in metrics.items())
