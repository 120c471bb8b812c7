"""Which networks an ensemble joins, and how: what its run and its package say of it."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from rtk.config.model import ModelConfig

Average: TypeAlias = Literal["softmax", "logits"]
MOST_MEMBERS = 1000


class EnsembleConfig(BaseModel):
    """Networks that predict as one.

    Attributes:
        average: what is averaged over the members.
        members: the networks, in the order in which their features stand side by side.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    average: Average = "softmax"
    members: tuple[ModelConfig, ...] = Field(min_length=2, max_length=MOST_MEMBERS)
