"""Which scores an evaluation computes, and which of them run the model on images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rtk.config.errors import ConfigError, unknown, wanted_of
from rtk.scores.compute import expand_scores
from rtk.scores.hyperparameters import checked_hyperparameters
from rtk.scores.table import SCORES
from rtk.scores.variants import column_of, searched_columns

if TYPE_CHECKING:
    from rtk.config.schema import EvaluateConfig


def wanted_scores(settings: EvaluateConfig, backbone: str = "") -> tuple[str, ...]:
    """Scores that an evaluation computes: those compared, the confidence and the headline OOD score.

    Args:
        settings: of the evaluation.
        backbone: `model.name`, which `recommended` depends on.

    Raises:
        ValueError: there is no score of a name, or it has no such hyper-parameter or value.
    """
    given_hyperparameters(settings)
    return expand_scores([*settings.scores, settings.confidence, settings.ood_score], backbone)


def given_hyperparameters(settings: EvaluateConfig) -> dict[str, dict[str, Any]]:
    """Hyper-parameters that `evaluate.scores.NAME.PARAM` gives, by score.

    Raises:
        ValueError: naming the key, where there is no such score or hyper-parameter, or its value is another.
    """
    scores = settings.scores if isinstance(settings.scores, dict) else {}
    return {name: _checked(name, given) for name, given in scores.items() if given}


def _checked(name: str, given: dict[str, Any]) -> dict[str, Any]:
    if name not in SCORES:
        wanted = wanted_of(name, SCORES)
        raise ConfigError(f"evaluate.scores: got hyper-parameters of {name!r}, wanted those of {wanted}")
    score, key = SCORES[name], f"evaluate.scores.{name}"
    for parameter, value in given.items():
        if parameter in score.defaults and not score.limits[parameter].accepts(value):
            wanted = score.limits[parameter].wanted
            raise ConfigError(f"{key}.{parameter}: got {value!r}, wanted {wanted}")
    try:
        return checked_hyperparameters(key, score.defaults, score.limits, given)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def image_scores(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the scores that run the model on images, and so are computed with the predictions."""
    known = list(names)
    for name in known:
        if name not in SCORES:
            raise ConfigError(unknown("score", name[:60], SCORES))
    return tuple(name for name in known if SCORES[name].inputs == "images")


def image_columns(settings: EvaluateConfig, backbone: str = "") -> tuple[str, ...]:
    """Columns of scores of images that an evaluation computes: each as it is set, and what is searched.

    Arguments as of `wanted_scores`.
    """
    given = given_hyperparameters(settings)
    names = {name: given.get(name, {}) for name in image_scores(wanted_scores(settings, backbone))}
    searched = settings.search_images and settings.protocol == "rat_splits"
    columns = [column_of(SCORES[name], values) for name, values in names.items()]
    if searched:
        columns += [column for name, values in names.items() for column in searched_columns(name, values)]
    return tuple(dict.fromkeys(columns))
