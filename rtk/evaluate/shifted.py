"""Scores by corruption and severity, of images that rtk corrupts and of sets that others have (CIFAR-C)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from rtk.config.errors import ConfigError
from rtk.config.schema import EvaluateConfig, RunConfig
from rtk.data.decode.pipeline import Selection, evaluation_selection
from rtk.data.sets.dataset import content_hash
from rtk.data.sets.of_run import joined_by_name, open_configured
from rtk.data.sets.storage import locate
from rtk.evaluate.columns import as_matrix
from rtk.evaluate.measure import error_metrics
from rtk.evaluate.pool import Counted
from rtk.evaluate.score_table import as_predictions
from rtk.scores import SCORES, FittedScore, apply_score
from rtk.scores.selection import image_scores
from rtk.scores.variants import column_of, score_of

_FILE = re.compile(r"(?P<kind>.+)-(?P<severity>[1-5])\.parquet")


def shifted_scores(settings: EvaluateConfig) -> tuple[str, ...]:
    """Scores that are measured under corruption: the confidence, and those that are named one by one."""
    named = [name for name in settings.scores if name in SCORES]
    return tuple(dict.fromkeys([settings.confidence, *named]))


def shifted_columns(states: Mapping[str, FittedScore]) -> tuple[str, ...]:
    """Columns of those of some fitted scores that run the model, with the hyper-parameters that they have."""
    return tuple(column_of(SCORES[name], states[name].hyperparameters) for name in image_scores(states))


def corrupted_selections(
    folder: str, config: RunConfig, classes: tuple[str, ...], rows: int | None = None
) -> dict[str, Selection]:
    """Prepared sets `CORRUPTION-SEVERITY.parquet` of a folder, as `CORRUPTION/SEVERITY`.

    Args:
        folder: local or a URI, of `rtk data prepare --source cifar_c`.
        config: of the evaluation.
        classes: of the run.
        rows: number of images to use of each set, the first ones; None: all.

    Raises:
        ConfigError: there is no such set, or one has other classes than the run.
    """
    found = {}
    for name, kind, severity in sorted(_files(folder), key=lambda entry: (entry[1], entry[2])):
        dataset = open_configured(f"{folder.rstrip('/')}/{name}", "--corrupted")
        labelled = joined_by_name(classes, config.data.labels_by == "number", "--corrupted", dataset)
        found[f"{kind}/{severity}"] = evaluation_selection(config.data, labelled, rows)
    if not found:
        raise ConfigError(
            f"--corrupted: got {folder} without sets called CORRUPTION-SEVERITY.parquet, wanted what "
            "rtk data prepare --source cifar_c makes"
        )
    return found


def images_hash(selections: Mapping[str, Selection]) -> str:
    """What tells sets from others of the same names: a hash of their content and how much of it is used."""
    known = sorted((name, content_hash(one.dataset), len(one)) for name, one in selections.items())
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _files(folder: str) -> Iterator[tuple[str, str, int]]:
    """File names, corruptions and severities in a folder."""
    filesystem, place = locate(folder)
    if filesystem.get_file_info(place).type != fs.FileType.Directory:
        raise ConfigError(f"--corrupted: got {folder}, wanted a folder of prepared sets")
    for info in filesystem.get_file_info(fs.FileSelector(place)):
        match = _FILE.fullmatch(info.base_name)
        if match is not None:
            yield info.base_name, match["kind"], int(match["severity"])


def measure_variants(
    blocks: Iterable[pa.Table],
    labels: Mapping[str, np.ndarray],
    states: Mapping[str, FittedScore],
    done: Counted,
) -> dict[str, list[dict[str, Any]]]:
    """Metrics of each variant `CORRUPTION/SEVERITY` of labelled images, in order, by score.

    Args:
        blocks: predictions, each block of one or several variants (`set`), rows by their numbers (`row`).
        labels: int64 (N,) of each variant.
        states: fitted scores to tell right from wrong by, by name; those of images are columns of the blocks.
        done: counts the images.
    """
    correct = {name: np.empty(len(own), bool) for name, own in labels.items()}
    values = {score: {name: np.empty(len(own)) for name, own in labels.items()} for score in states}
    for block in blocks:
        names = np.array(block["set"].to_pylist())
        for name in np.unique(names):
            _place(name, block.filter(pa.array(names == name)), labels[name], states, correct, values)
        done.add(len(block))
    return {score: [_row(name, own[name], correct[name]) for name in labels] for score, own in values.items()}


def _place(
    name: str,
    block: pa.Table,
    labels: np.ndarray,
    states: Mapping[str, FittedScore],
    correct: Mapping[str, np.ndarray],
    values: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Score the images of one variant and put the outcome where their row numbers say."""
    rows = block["row"].to_numpy()
    columns = {key: as_matrix(block[key], len(rows)).copy() for key in ("logits", "features")}
    of_images = [key for key in block.column_names if score_of(key)[0] in states]
    columns |= {key: block[key].to_numpy().copy() for key in of_images}
    predictions = as_predictions({**columns, "label": labels[rows]})
    correct[name][rows] = columns["logits"].argmax(1) == labels[rows]
    for score, state in states.items():
        values[score][name][rows] = apply_score(score, state, predictions).numpy()


def _row(variant: str, sure: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    kind, _, severity = variant.rpartition("/")
    about = {"corruption": kind, "severity": int(severity), "images": len(sure)}
    return about | error_metrics(sure, correct)
