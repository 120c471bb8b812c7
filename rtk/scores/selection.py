"""Which scores an evaluation computes, and which of them run the model on images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtk.scores.compute import expand_scores
from rtk.scores.table import SCORES
from rtk.scores.variants import searched_columns

if TYPE_CHECKING:
    from rtk.config.schema import EvaluateConfig


def wanted_scores(settings: EvaluateConfig) -> tuple[str, ...]:
    """Scores that an evaluation computes: those compared, the confidence and the headline OOD score."""
    return expand_scores([*settings.scores, settings.confidence, settings.ood_score])


def image_scores(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the scores that run the model on images, and so are computed with the predictions."""
    return tuple(name for name in names if SCORES[name].inputs == "images")


def image_columns(settings: EvaluateConfig) -> tuple[str, ...]:
    """Columns of scores of images that an evaluation computes: each by its defaults, and what is searched."""
    names = image_scores(wanted_scores(settings))
    searched = settings.search_images and settings.protocol == "rat_splits"
    more = [column for name in names for column in searched_columns(name)] if searched else []
    return tuple(dict.fromkeys([*names, *more]))
