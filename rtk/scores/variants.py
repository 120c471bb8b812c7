"""Scores of images with other hyper-parameters than their own: a column of predictions for each.

A score of images is computed while these are predicted, so that what a search may choose has to be there
before it begins. The column of a variant has the score's name, then those values that are no defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from types import MappingProxyType
from typing import Any

from rtk.scores.score import Score
from rtk.scores.table import SCORES


def combinations(values: Mapping[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Every combination of the values of hyper-parameters; none where there are no values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())] if values else []


def column_of(score: Score, settings: Mapping[str, Any]) -> str:
    """The column of a score of images with some hyper-parameters."""
    defaults = score.defaults
    others = {name: value for name, value in settings.items() if value != defaults[name]}
    return score.name + (json.dumps(others, sort_keys=True) if others else "")


def score_of(column: str) -> tuple[str, dict[str, Any]]:
    """The name of a column's score, and the hyper-parameters that are not its defaults."""
    name, brace, rest = column.partition("{")
    return name, json.loads(brace + rest) if brace else {}


def fit_of(column: str) -> tuple[str, dict[str, Any]]:
    """The fit behind a column, named as a column is, and those of its hyper-parameters that fitting uses."""
    name, settings = score_of(column)
    own = {key: value for key, value in settings.items() if key in SCORES[name].fit_defaults}
    return column_of(SCORES[name], own), own


def scoring_of(column: str) -> dict[str, Any]:
    """Those hyper-parameters of a column that scoring uses."""
    name, settings = score_of(column)
    return {key: value for key, value in settings.items() if key in SCORES[name].score_defaults}


def searched_columns(name: str, given: Mapping[str, Any] = MappingProxyType({})) -> tuple[str, ...]:
    """Columns of a score of images that RAT's protocol chooses from; what is given is not searched."""
    score = SCORES[name]
    return tuple(column_of(score, values) for values in with_given(combinations(score.rat_search), given))


def with_given(values: list[dict[str, Any]], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each of some hyper-parameters with what is given in its place, each once."""
    found: list[dict[str, Any]] = []
    for each in ({**one, **given} for one in values):
        if each not in found:
            found.append(each)
    return found
