"""Labels of data sets that look wrong to a run: confident learning on its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from rtk.config.errors import ConfigError
from rtk.config.schema import RunConfig
from rtk.data.decode.pipeline import Selection, evaluation_selection
from rtk.data.sets.class_names import with_classes
from rtk.data.sets.dataset import ImageDataset, content_hash
from rtk.data.sets.of_run import open_configured, split_train
from rtk.evaluate.pool import Pool
from rtk.evaluate.predict import predict_datasets, prediction_files
from rtk.evaluate.predictions_file import read_predictions, read_stamp
from rtk.metrics.label_errors import label_errors
from rtk.runs.folder import RunFolder
from rtk.runtime.console import Progress


@dataclass(frozen=True)
class LabelCheck:
    """What a run makes of the labels of one data set.

    Attributes:
        rows: int64 (E,), rows of the set whose labels look wrong, the most doubtful first.
        suggested: (E,), names of the classes that the run sees there.
        given: float64 (E,), its probability of the given label.
        best: float64 (E,), its probability of the suggested one.
        images: number of images that were looked at.
        trained_on: number of these that the run was trained on: it is too sure of them to find all errors.
    """

    rows: np.ndarray
    suggested: tuple[str, ...]
    given: np.ndarray
    best: np.ndarray
    images: int
    trained_on: int


def check_labels_with(
    run: RunFolder,
    datasets: Mapping[str, ImageDataset],
    broken: Mapping[str, tuple[int, ...]],
    checkpoint: str = "best",
    progress: Progress | None = None,
    by_number: bool = False,
) -> dict[str, LabelCheck]:
    """Find labels that look wrong to a run.

    Predictions that the run has of a set are taken from its folder; the others are made and kept there.

    Args:
        run: a trained run.
        datasets: by name.
        broken: rows of each that cannot be decoded.
        checkpoint: `best` or `last`.
        progress: called with the number of images predicted and their total.
        by_number: take labels as they are, whatever the names of the classes.

    Raises:
        ConfigError: a set has a class that the run does not know.
        CheckpointError: the run has no such checkpoint.
    """
    config = run.config()
    classes = _classes_of(run, config)
    selections = {}
    for name, dataset in datasets.items():
        try:
            matched, _ = with_classes(dataset, classes, by_number)
        except ValueError as error:
            raise ConfigError(
                f"--run {run.name}: {dataset.path}: {error}; --labels-by number takes labels as numbers"
            ) from None
        left_out = tuple(sorted(broken.get(name, ())))
        selections[name] = replace(evaluation_selection(config.data, matched), left_out=left_out)
    files = prediction_files(run, selections, checkpoint)
    stored = {name: _stored_as(run, selections[name], file.stamp) for name, file in files.items()}
    needed = {stored[name]: selection for name, selection in selections.items()}
    with Pool(run, checkpoint) as pool:
        paths = predict_datasets(pool, needed, progress)
    trained = {name: _trained_on(run, config, selection) for name, selection in selections.items()}
    return {
        name: _check(selection, read_predictions(paths[stored[name]]), classes, trained[name])
        for name, selection in selections.items()
    }


def _check(
    selection: Selection, predicted: Mapping[str, np.ndarray], classes: tuple[str, ...], trained_on: int
) -> LabelCheck:
    labels = selection.labels()
    probabilities = softmax(predicted["logits"].astype(np.float64), axis=1)
    found = label_errors(probabilities, labels)
    return LabelCheck(
        selection.kept[found.rows],
        tuple(classes[label] for label in found.suggested),
        probabilities[found.rows, labels[found.rows]],
        probabilities[found.rows, found.suggested],
        len(labels),
        trained_on,
    )


def _classes_of(run: RunFolder, config: RunConfig) -> tuple[str, ...]:
    """Names of a run's classes: those written down or, where none are, those of its training images."""
    recorded = (run.read_json("environment.json") or {}).get("classes")
    if recorded:
        return tuple(recorded)
    return open_configured(config.data.train, "data.train", need_classes=True).classes


def _stored_as(run: RunFolder, selection: Selection, stamp: Mapping[str, Any]) -> str:
    """Name of a file of predictions: that of an evaluation that made the same, else one by the content."""
    for path in sorted((run.evaluation / "predictions").glob("*.parquet")):
        if read_stamp(path).get("predictions") == stamp:
            return path.stem
    return f"checked-{content_hash(selection.dataset)[:12]}"


def _trained_on(run: RunFolder, config: RunConfig, selection: Selection) -> int:
    """Number of images of a selection that the run was trained on."""
    hashes = (run.read_json("environment.json") or {}).get("data", {})
    if content_hash(selection.dataset) != hashes.get("train"):
        return 0
    rows = min(len(selection), config.data.train_rows or len(selection))
    return len(split_train(config, rows)[0])
