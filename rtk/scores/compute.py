"""Fit a score once, apply it to many data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtk.config.errors import wanted_of
from rtk.scores.hyperparameters import checked_hyperparameters, defaults_of
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score
from rtk.scores.table import DEFAULT_SCORES, DISAGREEMENT_SCORES, SCORES, recommended_scores
from rtk.scores.variants import column_of

# Images that are scored at a time, so that a score may use a few times N x C numbers.
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class FittedScore:
    """What `fit_score` found: plain tensors and plain values, ready to be saved.

    Attributes:
        tensors: by name; empty for scores of the logits alone. May share memory with the data fitted on.
        hyperparameters: all of the score, defaults included.
        width: classes C and feature dimensions D that it was fitted on; None where nothing was fitted.
    """

    tensors: Mapping[str, Tensor]
    hyperparameters: Mapping[str, Any]
    width: tuple[int, int] | None


@torch.no_grad()
def fit_score(name: str, fit_data: FitData | None = None, **hyperparameters: Any) -> FittedScore:
    """Fit a score; one of images has been computed already, so that nothing is left to fit.

    Args:
        name: key of `SCORES`.
        fit_data: what to fit on; scores of the logits alone do not need it.
        **hyperparameters: of the score; the defaults are in `SCORES[name].defaults`.

    Raises:
        ValueError: unknown score or hyper-parameter, a value out of range, or no `fit_data` where it is
            needed.
    """
    score = get_score(name)
    if score.inputs == "images":
        given = checked_hyperparameters(name, score.defaults, score.limits, hyperparameters)
        return FittedScore({}, score.defaults | given, None)
    settings = score.defaults | checked_hyperparameters(name, score.defaults, score.limits, hyperparameters)
    if score.fit is None:
        return FittedScore({}, settings, None)
    if fit_data is None:
        raise ValueError(f"fit_data: got None, wanted FitData, as {name} is fitted before it scores")
    tensors = score.fit(fit_data, **{key: settings[key] for key in score.fit_defaults})
    # safetensors takes contiguous tensors only.
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    return FittedScore(contiguous, settings, fit_data.train.width)


@torch.no_grad()
def apply_score(name: str, state: FittedScore, predictions: Predictions, **hyperparameters: Any) -> Tensor:
    """Score images, (N,), larger = more trustworthy.

    Args:
        name: key of `SCORES`.
        state: of `fit_score` with the same name.
        predictions: N images, on the device of the state; kNN's bank alone may lie elsewhere.
        **hyperparameters: replace those of the state, as far as fitting does not use them.

    Raises:
        ValueError: unknown score or hyper-parameter, a value out of range, predictions of another width
            than those fitted on, or without the image score asked for.
    """
    score = get_score(name)
    if score.inputs == "images":
        given = checked_hyperparameters(name, score.score_defaults, score.limits, hyperparameters)
        return _computed(column_of(score, {**state.hyperparameters, **given}), predictions)
    adjustable = {key: value for key, value in state.hyperparameters.items() if key not in score.fit_defaults}
    changed = checked_hyperparameters(name, adjustable, score.limits, hyperparameters)
    if state.width is not None and predictions.width != state.width:
        got = f"(classes, features) = {predictions.width}"
        raise ValueError(f"predictions: got {got}, wanted {state.width}, which {name} was fitted on")
    settings = {**state.hyperparameters, **changed}
    return torch.cat([_score(score, state, part, settings) for part in predictions.split(CHUNK)])


def compute_score(
    name: str, predictions: Predictions, fit_data: FitData | None = None, **hyperparameters: Any
) -> Tensor:
    """Fit a score where needed and score images, (N,), larger = more trustworthy.

    Args:
        name: key of `SCORES`.
        predictions: N images.
        fit_data: what to fit on; scores of the logits alone do not need it.
        **hyperparameters: of the score; the defaults are in `SCORES[name].defaults`.

    Raises:
        ValueError: as `fit_score` and `apply_score`.
    """
    return apply_score(name, fit_score(name, fit_data, **hyperparameters), predictions)


def compute_image_score(
    name: str,
    model: nn.Module,
    images: Tensor,
    tensors: Mapping[str, Tensor] | None = None,
    **hyperparameters: Any,
) -> Tensor:
    """Score images by running a model, (N,), larger = more trustworthy.

    Args:
        name: key of `SCORES` whose `inputs` are images.
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1], no more than a batch: the model sees them at once.
        tensors: of `fit_image_score`, for a score that is fitted.
        **hyperparameters: of the score; the defaults are in `SCORES[name].defaults`.

    Raises:
        ValueError: unknown score or hyper-parameter, a value out of range, no `tensors` where they are
            needed, images in half precision for a score that moves pixels, or a score of predictions.
    """
    score = _image_score(name)
    settings = checked_hyperparameters(name, score.score_defaults, score.limits, hyperparameters)
    if score.moves_pixels:
        _require_fine_pixels(images)
    if not score.passes:
        return score.score(model, images, **settings)
    if tensors is None:
        raise ValueError(f"tensors: got None, wanted what {name} was fitted to")
    return score.score(model, images, tensors, **settings)


def fit_image_score(
    name: str,
    model: nn.Module,
    train: Iterable[tuple[Tensor, Tensor]],
    held_out: Iterable[tuple[Tensor, Tensor]] | None = None,
    **hyperparameters: Any,
) -> dict[str, Tensor]:
    """Fit a score of images in this process; an evaluation does the same on its pool of actors.

    Args:
        name: key of `SCORES` whose `inputs` are images.
        model: in evaluation mode, from images to logits.
        train: batches (images (N, 3, H, W), labels (N,)) of the training images, read once a pass.
        held_out: batches of labelled in-distribution images that are not in `train`; None: the passes over
            these are left out, unless there are no others.
        **hyperparameters: of the passes, such as Gram's `classes`; an evaluation takes the defaults.

    Returns:
        What `compute_image_score` takes as `tensors`.

    Raises:
        ValueError: unknown score or hyper-parameter, a score of predictions, a stream without a batch, or
            nothing to fit on.
    """
    score = _image_score(name)
    settings = checked_hyperparameters(name, score.fit_defaults, score.limits, hyperparameters)
    fitted: dict[str, Tensor] = {}
    for step in score.passes:
        batches = train if step.rows == "train" else held_out
        if batches is not None:
            used = {key: value for key, value in settings.items() if key in defaults_of(step.part)}
            fitted |= step.merge(step.part(model, *batch, fitted, **used) for batch in batches)
    if score.passes and not fitted:
        raise ValueError(f"held_out: got None, wanted the images that {name} is fitted on")
    return fitted


def expand_scores(names: Iterable[str], backbone: str = "") -> tuple[str, ...]:
    """Names of scores, each once; names of sets stand for their scores.

    Args:
        names: of scores, or `all` for every score of a network, `sure_plus` for those of SURE+'s tables,
            `recommended` for those that suit the backbone, `disagreement` for those of an ensemble's members.
        backbone: `model.name`.

    Raises:
        ValueError: there is no score of a name.
    """
    sets = {
        "all": tuple(name for name, score in SCORES.items() if not score.of_ensembles),
        "sure_plus": DEFAULT_SCORES,
        "recommended": recommended_scores(backbone),
        "disagreement": DISAGREEMENT_SCORES,
    }
    expanded = [name for given in names for name in sets.get(given, (given,))]
    return tuple(dict.fromkeys(get_score(name).name for name in expanded))


def get_score(name: str) -> Score:
    """The row of `SCORES`.

    Raises:
        ValueError: no score has this name; the message says which is the nearest.
    """
    if name not in SCORES:
        raise ValueError(f"score: got {name!r}, wanted {wanted_of(name, SCORES)}")
    return SCORES[name]


def _image_score(name: str) -> Score:
    score = get_score(name)
    if score.inputs != "images":
        raise ValueError(f"score: got {name!r}, which scores predictions, wanted one of images")
    return score


def _require_fine_pixels(images: Tensor) -> None:
    if images.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"images: got {images.dtype}, wanted torch.float32 or torch.float64: the score moves pixels by "
            "less than half precision tells apart (autocast inside the model does no harm)"
        )


def _computed(column: str, predictions: Predictions) -> Tensor:
    if column not in predictions.image_scores:
        there = ", ".join(predictions.image_scores) or "none"
        raise ValueError(
            f"image_scores: got {there}, wanted {column!r}: it runs the model (compute_image_score) and is "
            "computed with the predictions"
        )
    return predictions.image_scores[column]


def _score(score: Score, state: FittedScore, predictions: Predictions, settings: Mapping[str, Any]) -> Tensor:
    if score.inputs == "logits":
        return score.score(predictions.logits, **settings)
    used = {key: value for key, value in settings.items() if key in score.score_defaults}
    return score.score(predictions, state.tensors, **used)
