"""What all parts of the config are made of: the base of a block, numbers within limits, durations."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

DURATION = re.compile(r"^(\d+)(ep|steps)$")


def _check_duration(text: Any) -> str:
    if not isinstance(text, str) or not DURATION.match(text):
        raise ValueError("wanted a number with its unit, such as 20ep or 1000steps")
    return text


Duration = Annotated[
    str, BeforeValidator(_check_duration), WithJsonSchema({"type": "string", "format": "duration"})
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
Severity = Annotated[float, Field(ge=0.1, le=10)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def duration_steps(text: str, steps_per_epoch: int) -> int:
    """Number of optimiser steps in a duration such as `20ep` or `1000steps`."""
    match = DURATION.match(text)
    if match is None:
        raise ValueError(f"duration: got {text!r}, wanted a number with its unit, such as 20ep or 1000steps")
    count = int(match.group(1))
    return count * steps_per_epoch if match.group(2) == "ep" else count


class Section(BaseModel):
    """Base of every config block: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
