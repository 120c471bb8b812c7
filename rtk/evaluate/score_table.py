"""Every score of every image: one table that metrics, plots and decisions are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from rtk.config.schema import RunConfig
from rtk.data.sets.of_run import split_train
from rtk.evaluate.suites import OODSet
from rtk.models import Classifier
from rtk.models.heads import EnsembleHead
from rtk.runtime.large_arrays import take_rows
from rtk.scores import SCORES, FitData, FittedScore, Predictions, apply_score
from rtk.scores.variants import score_of

Columns = Mapping[str, np.ndarray]
Rows = np.ndarray | slice


def as_predictions(columns: Columns, rows: Rows = slice(None)) -> Predictions:
    """Columns of a predictions file as what scores take, all rows or some."""
    picked = {name: torch.from_numpy(take_rows(values, rows)) for name, values in columns.items()}
    image_scores = {name: values for name, values in picked.items() if score_of(name)[0] in SCORES}
    return Predictions(picked["logits"], picked["features"], picked["label"], image_scores)


def fit_data(config: RunConfig, predictions: Mapping[str, Columns], model: Classifier) -> FitData:
    """What scores are fitted on: un-augmented training and validation images and the head."""
    train = predictions["train"]
    kept, name, held = rows_to_fit_on(config, len(train["label"]), "validation" in predictions)
    validation = as_predictions(predictions[name], held)
    members = model.head.member_weights() if isinstance(model.head, EnsembleHead) else ()
    return FitData(as_predictions(train, kept), validation, *model.head.used_weights(), members)


def rows_to_fit_on(config: RunConfig, train_rows: int, has_validation: bool) -> tuple[Rows, str, Rows]:
    """Rows of `train` to fit on; the set that holds the held-out images, and its rows.

    These are the images of `validation` where there is such a set, or those of `train` held out of training.
    """
    if has_validation:
        return slice(None), "validation", slice(None)
    kept, held = split_train(config, train_rows)
    return kept, "train", held


def score_table(
    predictions: Mapping[str, Columns],
    states: Mapping[str, FittedScore],
    sets: Mapping[str, OODSet],
    id_sets: Sequence[str] = ("test",),
) -> pa.Table:
    """One row per image of the test and OOD sets: `set`, `group`, ids, `is_correct` and every score.

    Args:
        predictions: columns of these sets, by name.
        states: fitted scores, by name.
        sets: the OOD sets.
        id_sets: names of the others, whose `group` is `id`.
    """
    parts = []
    for name in (*id_sets, *sets):
        columns = predictions[name]
        known: dict[str, Any] = {key: columns[key] for key in ("sample_id", "label", "prediction")}
        known["is_correct"] = columns["label"] == columns["prediction"]
        known |= _without_nan(name, score_columns(as_predictions(columns), states))
        group = sets[name].group if name in sets else "id"
        count = len(columns["label"])
        parts.append(pa.table({"set": [name] * count, "group": [group] * count, **known}))
    return pa.concat_tables(parts)


def _without_nan(name: str, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scores of a set.

    Raises:
        ValueError: naming score and set, where there are any that cannot be ranked.
    """
    for score, values in scores.items():
        missing = int(np.isnan(values).sum())
        if missing:
            raise ValueError(
                f"score {score}: got NaN for {missing} of {len(values)} images of {name!r}, wanted numbers; "
                "evaluate.scores can leave it out, what has been predicted is kept"
            )
    return scores


def score_columns(inputs: Predictions, states: Mapping[str, FittedScore]) -> dict[str, np.ndarray]:
    """Every score of N images, float64 (N,), by name."""
    return {name: apply_score(name, state, inputs).double().numpy() for name, state in states.items()}


def rows_of(table: pa.Table, column: str, value: str) -> dict[str, np.ndarray]:
    """Numbers of the rows in which `column` (`set` or `group`) has a value, by name of their column."""
    chosen = table.filter(pc.equal(table[column], value)).drop_columns(["set", "group"])
    return {name: chosen[name].to_numpy() for name in chosen.column_names}
