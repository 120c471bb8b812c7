"""The protocols of `rtk.evaluate.protocol`, carried out: scores fitted, tuned and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from rtk.config.schema import RunConfig
from rtk.evaluate.measure import measure, measure_full_spectrum, reduce_leaves
from rtk.evaluate.protocol import (
    TunedScores,
    draw_splits,
    error_criterion,
    fixed_scores,
    ood_criterion,
    openood_grid,
    rat_grid,
    tuned_scores,
)
from rtk.evaluate.score_table import Columns, as_predictions, score_table
from rtk.evaluate.sets import CALIBRATION, VALIDATION_OOD
from rtk.evaluate.suites import OODSet
from rtk.runtime.console import progress_bar
from rtk.scores import FitData, Predictions

# What the splits of a protocol are averaged over.
MEASURED = ("summary", "test", "scores", "sets", "full_spectrum")


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

    @property
    def chosen_on(self) -> str:
        """What thresholds are chosen on: the `calibration` images where there are some, or `validation`."""
        return CALIBRATION if CALIBRATION in self.predictions else "validation"

    @property
    def calibration(self) -> Predictions:
        """Of the labelled images that thresholds are chosen on."""
        given = self.predictions.get(CALIBRATION)
        return self.fit.validation if given is None else as_predictions(given)


class Measured(NamedTuple):
    """Scores of every image, the fitted scores that gave them, and their metrics."""

    table: pa.Table
    tuned: TunedScores
    result: dict[str, Any]


def measure_fixed(evaluation: Evaluation) -> Measured:
    """Scores with their default hyper-parameters."""
    return _measure(evaluation, fixed_scores(evaluation.config, evaluation.names, evaluation.fit))


def measure_aps(evaluation: Evaluation) -> Measured:
    """Scores tuned by OpenOOD's automatic search on validation ID and OOD images."""
    ood_images = as_predictions(evaluation.predictions[VALIDATION_OOD])
    criterion = ood_criterion(evaluation.fit.validation, ood_images)
    tuned = tuned_scores(evaluation.config, evaluation.names, evaluation.fit, criterion, openood_grid)
    return _measure(evaluation, tuned)


def measure_splits(evaluation: Evaluation) -> Measured:
    """RAT's protocol; the table, and so the report's plots, are those of the first split."""
    test = evaluation.predictions["test"]
    grid = partial(rat_grid, images=evaluation.config.evaluate.search_images)
    splits = []
    for tune, rest in draw_splits(evaluation.config.seed, len(test["label"])):
        validation = as_predictions(test, tune)
        fit = replace(evaluation.fit, validation=validation)
        left = {name: values[rest] for name, values in test.items()}
        part = replace(evaluation, fit=fit, predictions={**evaluation.predictions, "test": left})
        tuned = tuned_scores(evaluation.config, evaluation.names, fit, error_criterion(validation), grid)
        splits.append(_measure(part, tuned))
    measured = [{key: split.result[key] for key in MEASURED if key in split.result} for split in splits]
    mean = reduce_leaves(measured, lambda values: float(values.mean()))
    std = reduce_leaves(measured, lambda values: float(values.std(ddof=1)))
    described = _describe(evaluation, splits[0].tuned)
    described["protocol"]["search_images"] = evaluation.config.evaluate.search_images
    described["protocol"]["splits"] = [split.tuned.describe() for split in splits]
    return splits[0]._replace(result={**mean, "std": std, **described})


PROTOCOLS: dict[str, Callable[[Evaluation], Measured]] = {
    "fixed": measure_fixed,
    "aps": measure_aps,
    "rat_splits": measure_splits,
}


def _measure(evaluation: Evaluation, tuned: TunedScores) -> Measured:
    table = score_table(evaluation.predictions, tuned.states, evaluation.sets)
    settings, names, sets = evaluation.config.evaluate, evaluation.names, evaluation.sets
    with progress_bar("measuring") as progress:
        result = measure(settings, table, names, sets, progress)
    if evaluation.config.data.csid:
        shifted = score_table(evaluation.predictions, tuned.states, {}, tuple(evaluation.config.data.csid))
        with progress_bar("measuring the full spectrum") as progress:
            full = measure_full_spectrum(settings, table, shifted, names, sets, progress)
        result["full_spectrum"] = full
    return Measured(table, tuned, {**result, **_describe(evaluation, tuned)})


def _describe(evaluation: Evaluation, tuned: TunedScores) -> dict[str, Any]:
    """What the figures were made with."""
    settings = evaluation.config.evaluate
    return {
        "ood_score": settings.ood_score,
        "confidence": settings.confidence,
        "ds_method": settings.ds_method,
        "groups": {name: entry.group for name, entry in evaluation.sets.items()},
        "paths": {
            "test": evaluation.config.data.test,
            **{name: e.path for name, e in evaluation.sets.items()},
        },
        "protocol": {"name": settings.protocol, **tuned.describe()},
    }
