"""What all parts of the config are made of: the base of a block, numbers within limits, durations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from rtk.config.kinds import choices, plain

EXACT = 2**53  # larger whole numbers are rounded where they are written with a point or an exponent
DURATION = re.compile(r"^(\d+)(ep|steps)$")
TIME = re.compile(r"^(\d+(?:\.\d+)?)(s|min|h)$")
SECONDS = {"s": 1, "min": 60, "h": 3600}


def _check_duration(text: Any) -> str:
    if not isinstance(text, str) or not DURATION.match(text):
        raise ValueError("wanted a number with its unit, such as 20ep or 1000steps")
    return text


Duration = Annotated[
    str, BeforeValidator(_check_duration), WithJsonSchema({"type": "string", "format": "duration"})
]


def _check_time(value: Any) -> str:
    if isinstance(value, str) and (match := TIME.match(value)) and float(match[1]) > 0:
        return value
    raise ValueError("wanted a time with its unit, such as 30s, 10min or 2h")


Time = Annotated[str, BeforeValidator(_check_time), WithJsonSchema({"type": "string", "format": "time"})]


def _check_interval(value: Any) -> Any:
    if isinstance(value, str) and TIME.match(value):
        return _check_time(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError("wanted a number of epochs, or a time with its unit, such as 30s, 10min or 2h")


Interval = Annotated[
    int | str,
    BeforeValidator(_check_interval),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "format": "time"}]}),
]


Hyperparameter = bool | int | float | str | None


def _check_scores(value: Any) -> Any:
    if isinstance(value, Mapping) and value:
        for name, given in value.items():
            if not isinstance(given, Mapping) or not all(
                each is None or isinstance(each, bool | int | float | str) for each in given.values()
            ):
                wanted = "a number or word for each hyper-parameter, such as {k: 20}"
                raise ValueError(f"evaluate.scores.{name}: got {given!r}, wanted {wanted}")
        return {name: dict(given) for name, given in value.items()}
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    example = f"[{value}]" if isinstance(value, str) else "[sure_plus]"
    raise ValueError(f"wanted a list such as evaluate.scores={example}")


Scores = Annotated[
    tuple[str, ...] | dict[str, dict[str, Hyperparameter]],
    BeforeValidator(_check_scores),
    WithJsonSchema({"type": "array", "items": {"type": "string"}}),
]


def interval_seconds(interval: int | str) -> float | None:
    """Seconds of a time such as `10min`; None where it is a number of epochs."""
    match = TIME.match(str(interval))
    return float(match[1]) * SECONDS[match[2]] if match else None


def _check_last_part(text: Any) -> str:
    words = text.split() if isinstance(text, str) else []
    if len(words) != 2 or not DURATION.match(words[0]) or words[1] not in ("off", "only"):
        raise ValueError("wanted a duration and off or only, such as '10ep off'")
    return " ".join(words)


LastPart = Annotated[str, BeforeValidator(_check_last_part), WithJsonSchema({"type": "string"})]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(gt=0)]
Severity = Annotated[float, Field(ge=0.1, le=10)]
PositiveFloat = Annotated[float, Field(gt=0)]


def duration_steps(text: str, steps_per_epoch: int) -> int:
    """Number of optimiser steps in a duration such as `20ep` or `1000steps`."""
    match = DURATION.match(text)
    if match is None:
        raise ValueError(f"duration: got {text!r}, wanted a number with its unit, such as 20ep or 1000steps")
    count = int(match.group(1))
    return count * steps_per_epoch if match.group(2) == "ep" else count


class Section(BaseModel):
    """Base of every config block: immutable, numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would make another number of: `yes` is not 1, a seed has all its digits."""
        kind = plain(cls.model_fields[str(info.field_name)])
        if isinstance(value, bool) and (kind in (int, float) or int in map(type, choices(kind))):
            raise ValueError("wanted a number")
        if isinstance(value, float) and kind is int and abs(value) >= EXACT:
            raise ValueError("wanted a whole number, all digits written out")
        return value
