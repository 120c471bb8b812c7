"""Model + images -> predictions Parquet, through Ray Data; every column is written once per checkpoint."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtk.config.plugin_files import owner_of
from rtk.data.decode.pipeline import Selection
from rtk.data.sets.dataset import content_hash
from rtk.evaluate.actors import Predict
from rtk.evaluate.image_fit import fit_image_file
from rtk.evaluate.pool import FIT_SET, Counted, Pool, collect
from rtk.evaluate.predictions_file import PredictionsFile
from rtk.evaluate.throughput import note_throughput
from rtk.runs.folder import RunFolder
from rtk.runtime.console import Progress
from rtk.scores import SCORES
from rtk.scores.variants import fit_of, score_of, scoring_of
from rtk.train.checkpoint import read_state


def predict_datasets(
    pool: Pool,
    selections: Mapping[str, Selection],
    progress: Progress | None = None,
    scores: tuple[str, ...] = (),
) -> dict[str, Path]:
    """Predict and score what has not been yet, by the actors of a pool; a lost actor's blocks are done again.

    Every file is written as soon as its last row is there. A batch is `evaluate.batch_size` consecutive rows
    of one data set, whatever the number of actors, so that results do not depend on it.

    Args:
        pool: actors with the model of a run.
        selections: data sets by name; `train` gets no scores. Those that are fitted are fitted on `train` and
            `validation`.
        progress: called with the number of images done and their total.
        scores: image scores, which become columns: names, or variants (`rtk.scores.variants`).

    Returns:
        For each name the file `evaluation/predictions/NAME.parquet`, with columns `sample_id`, `label`,
        `prediction`, `logits`, `features` and image scores, rows in the order of the data set.
    """
    folder = pool.run.evaluation / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    files = prediction_files(pool.run, selections, pool.checkpoint)
    stamps = {name: file.stamp for name, file in files.items()}
    score_stamps, fitted_files = _fit_scores(pool, scores, selections, stamps, folder)
    # Data sets that lack the same columns share a pass: starting one takes seconds.
    passes: dict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for name, file in files.items():
        lacking = file.lacking({} if name == FIT_SET else score_stamps)
        if any(lacking):
            passes[lacking].append(name)
    done = Counted(progress, sum(len(selections[name]) for names in passes.values() for name in names))
    for (outputs, missing), names in passes.items():
        part = {name: selections[name] for name in names}
        work = Predict(outputs, missing, fitted_files)
        for name, columns in collect(pool.run_blocks(part, work), part, folder, done):
            added = {score: score_stamps[score] for score in missing}
            files[name].write(part[name], columns, added)
    note_throughput(pool.run.evaluation, done.throughput())
    return {name: file.path for name, file in files.items()}


def fitted_files(pool: Pool, scores: tuple[str, ...], selections: Mapping[str, Selection]) -> dict[str, str]:
    """Tensors of those of some image scores that are fitted, a file each; fits what has not been.

    Args:
        pool: actors with the model of a run.
        scores: names of image scores.
        selections: data sets by name, `train` among them.
    """
    files = prediction_files(pool.run, selections, pool.checkpoint)
    stamps = {name: file.stamp for name, file in files.items()}
    return _fit_scores(pool, scores, selections, stamps, pool.run.evaluation / "predictions")[1]


def prediction_files(
    run: RunFolder, selections: Mapping[str, Selection], checkpoint: str = "best"
) -> dict[str, PredictionsFile]:
    """The file of predictions of each data set, which says whether it is there and made from the same.

    Args:
        run: a trained run.
        selections: data sets by name.
        checkpoint: `best` or `last`.
    """
    step = read_state(run.checkpoints / checkpoint)["step"]
    made_by = {"checkpoint": checkpoint, "step": step, "precision": run.config().train.precision}
    return {
        name: PredictionsFile(run.evaluation / "predictions" / f"{name}.parquet", _stamp(selection) | made_by)
        for name, selection in selections.items()
    }


def _fit_scores(
    pool: Pool,
    scores: tuple[str, ...],
    selections: Mapping[str, Selection],
    stamps: Mapping[str, dict[str, Any]],
    folder: Path,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What the columns of scores are made from, by score; and the files of their fits."""
    score_stamps: dict[str, dict[str, Any]] = {}
    fitted_files: dict[str, str] = {}
    for column in scores:
        name, _ = score_of(column)
        owner = owner_of("score", name)
        plugin = {"plugin": owner.sha256} if owner is not None else {}
        score_stamps[column] = {"hyperparameters": SCORES[name].score_defaults | scoring_of(column), **plugin}
        if SCORES[name].passes:
            fit, _ = fit_of(column)
            fitted_files[fit], fitted_on = fit_image_file(pool, fit, selections, stamps, folder, plugin)
            score_stamps[column] |= {"fitted_on": fitted_on}
    return score_stamps, fitted_files


def _stamp(selection: Selection) -> dict[str, Any]:
    """What predictions depend on beside the model: they are made anew when any of it changes."""
    data = {"data": content_hash(selection.dataset), "rows": len(selection), "size": selection.size}
    places = selection.dataset.label_map
    data |= {} if places is None else {"labels": list(places)}
    data |= {"crop_share": selection.crop_share, "interpolation": selection.interpolation}
    # Predictions from before these settings are of images as they were stored: their stamps stay valid.
    data |= {} if selection.exif == "ignore" else {"exif": selection.exif}
    return data if selection.jpeg == "full" else data | {"jpeg": selection.jpeg}
