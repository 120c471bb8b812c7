"""Hyper-parameters of scores: what a score takes, and which values make sense.

They are the keyword-only parameters of a score's functions, and their annotations say what may be given: a
`Literal`, `bool`, or one of the types below. A score with a limit of its own declares it beside its function,
`Annotated[float, between(0, 1, "()")]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np


@dataclass(frozen=True)
class Limit:
    """Which values a hyper-parameter may have: in words, and as a check."""

    wanted: str
    accepts: Callable[[Any], bool]


def between(low: float, high: float, ends: Literal["[]", "[)", "(]", "()"] = "[]") -> Limit:
    """Numbers in an interval; `ends` says whether its ends are part of it."""

    def accepts(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real):
            return False
        number = float(value)
        # NaN fails every comparison.
        return (
            low < number < high or (ends[0] == "[" and number == low) or (ends[1] == "]" and number == high)
        )

    return Limit(f"a number in {ends[0]}{low:g}, {high:g}{ends[1]}", accepts)


def is_positive_int(value: Any) -> bool:
    """Whether a value is a whole number above 0, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def is_natural(value: Any) -> bool:
    """Whether a value is a whole number from 0 on, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


PositiveInt = Annotated[int, Limit("a positive integer", is_positive_int)]
Seed = Annotated[int, Limit("an integer from 0 on", is_natural)]
Weight = Annotated[float, between(0, float("inf"), "[)")]
PositiveNumber = Annotated[float, Limit("a number above 0", between(0, float("inf"), "()").accepts)]
UnitInterval = Annotated[float, between(0, 1)]
PositiveShare = Annotated[float, between(0, 1, "(]")]
Percentile = Annotated[float, between(0, 100, "[)")]


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of a fit or score function and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@cache
def limits_of(function: Callable[..., Any]) -> dict[str, Limit]:
    """Limits of the keyword-only parameters of a fit or score function, from their annotations."""
    hints = get_type_hints(function, include_extras=True)
    return {name: _limit(hints.get(name)) for name in defaults_of(function)}


def checked_hyperparameters(
    score: str, known: Mapping[str, Any], limits: Mapping[str, Limit], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The values as Python's own numbers, which can be saved (NumPy's cannot), after a check of each.

    Raises:
        ValueError: a name that the score does not have, or a value outside its range.
    """
    values = {name: _plain(value) for name, value in given.items()}
    for name, value in values.items():
        if name not in known:
            takes = ", ".join(known) or "no hyper-parameter"
            raise ValueError(f"{score}: got hyper-parameter {name!r}, wanted {takes}{suggest(name, known)}")
        if not limits[name].accepts(value):
            raise ValueError(f"{name}: got {value!r}, wanted {limits[name].wanted}")
    return values


def suggest(name: str, known: Mapping[str, Any]) -> str:
    """`; did you mean X?` where a known name is close, or nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _limit(hint: Any) -> Limit:
    declared = [limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Limit)]
    if declared:
        return declared[0]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Limit(f"one of {', '.join(map(repr, choices))}", lambda value: value in choices)
    if hint is bool:
        return Limit("true or false", lambda value: isinstance(value, bool))
    return Limit("any value", lambda value: True)
