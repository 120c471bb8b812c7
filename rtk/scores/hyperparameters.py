"""Hyper-parameters of scores: what a score takes, and which values make sense."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, get_args

from rtk.scores.gradients import FastRadius, OdinStep
from rtk.scores.minimal import Norm
from rtk.scores.prototypes import FdbdNormalizer, SheMetric
from rtk.scores.radius import Solver
from rtk.scores.shaping import AshVariant
from rtk.scores.sirc import SircConfidence, SircFeature
from rtk.scores.subspace import ResidualSplit

Accepts = Callable[[Any], bool]


def _number(low: float, high: float, *, low_allowed: bool = True, high_allowed: bool = True) -> Accepts:
    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = float(value)
        # NaN fails every comparison.
        return low < number < high or (low_allowed and number == low) or (high_allowed and number == high)

    return accepts


def _positive_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def _one_of(literal: Any) -> tuple[str, Accepts]:
    choices = get_args(literal)
    return f"one of {', '.join(map(repr, choices))}", lambda value: value in choices


# A hyper-parameter of one name means the same in every score.
LIMITS: dict[str, tuple[str, Accepts]] = {
    "alpha": ("a positive integer", _positive_int),
    "budget": ("a positive integer", _positive_int),
    "clip": ("true or false", lambda value: isinstance(value, bool)),
    "confidence": _one_of(SircConfidence),
    "definition": _one_of(FastRadius),
    "dim": ("a positive integer or None", lambda value: value is None or _positive_int(value)),
    "epsilon": ("a number in [0, 1]", _number(0, 1)),
    "feature": _one_of(SircFeature),
    "fraction": ("a number in (0, 1]", _number(0, 1, low_allowed=False)),
    "gamma": ("a number above 0", _number(0, float("inf"), low_allowed=False, high_allowed=False)),
    "k": ("a positive integer", _positive_int),
    "lmbda": ("a number in [0, 1]", _number(0, 1)),
    "m": ("a positive integer", _positive_int),
    "metric": _one_of(SheMetric),
    "norm": _one_of(Norm),
    "normalizer": _one_of(FdbdNormalizer),
    "overshoot": ("a number in [0, 1]", _number(0, 1)),
    "percentile": ("a number in [0, 100)", _number(0, 100, high_allowed=False)),
    "rivals": ("a positive integer", _positive_int),
    "solver": _one_of(Solver),
    "split": _one_of(ResidualSplit),
    "step": _one_of(OdinStep),
    "step_size": ("a number in (0, 1]", _number(0, 1, low_allowed=False)),
    "steps": ("a positive integer", _positive_int),
    "tail": ("a positive integer", _positive_int),
    "temperature": ("a number above 0", _number(0, float("inf"), low_allowed=False, high_allowed=False)),
    "tolerance": ("a number in (0, 1)", _number(0, 1, low_allowed=False, high_allowed=False)),
    "variant": _one_of(AshVariant),
}


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of a fit or score function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_hyperparameters(score: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check names and values.

    Raises:
        ValueError: a name that the score does not have, or a value outside its range.
    """
    for name, value in given.items():
        if name not in known:
            takes = ", ".join(known) or "no hyper-parameter"
            raise ValueError(f"{score}: got hyper-parameter {name!r}, wanted {takes}{suggest(name, known)}")
        wanted, accepts = LIMITS[name]
        if not accepts(value):
            raise ValueError(f"{name}: got {value!r}, wanted {wanted}")


def suggest(name: str, known: Mapping[str, Any]) -> str:
    """`; did you mean X?` where a known name is close, or nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
