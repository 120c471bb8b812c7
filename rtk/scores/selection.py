"""Which scores an evaluation computes, and which of them run the model on images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtk.scores.compute import expand_scores
from rtk.scores.table import SCORES

if TYPE_CHECKING:
    from rtk.config.schema import EvaluateConfig


def wanted_scores(settings: EvaluateConfig) -> tuple[str, ...]:
    """Scores that an evaluation computes: those compared, the confidence and the headline OOD score."""
    return expand_scores([*settings.scores, settings.confidence, settings.ood_score])


def image_scores(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the scores that run the model on images, and so are computed with the predictions."""
    return tuple(name for name in names if SCORES[name].inputs == "images")
