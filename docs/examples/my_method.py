"""A method of one's own that keeps something of every weight: Lookahead (Zhang et al., NeurIPS 2019).

The optimiser's weights run ahead; at every k-th step slow weights go a share of the way towards them, and the
optimiser goes on from there.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rtk.config import RunConfig
from rtk.config.sections import Fraction, Section
from rtk.optim.method import Method, MethodRow, MethodSetup
from rtk.optim.methods import register
from rtk.optim.shards import Shards


class LookaheadConfig(Section):
    """The block `lookahead`."""

    every: int = Field(0, ge=0, description="steps from one look to the next (k); 0: off")
    share: Fraction = Field(0.5, description="how far the slow weights go (alpha)")


class Lookahead(Method):
    """Slow weights on the shard that this rank owns, whatever the ZeRO stage."""

    def __init__(self, shards: Shards, settings: LookaheadConfig) -> None:
        self.shards, self.settings = shards, settings
        self.steps = 0
        self.slow = [weight.clone() for weight in shards.weights()]

    @torch.no_grad()
    def after_step(self) -> None:
        """Called after the optimiser's step, on every rank."""
        self.steps += 1
        if self.steps % self.settings.every:
            return
        for weight, slow in zip(self.shards.weights(), self.slow, strict=True):
            slow.lerp_(weight, self.settings.share)
            weight.copy_(slow)
        self.shards.publish()  # the model computes with them from now on

    def tensors(self) -> dict[str, list[Tensor]]:
        """What a checkpoint holds of every weight."""
        return {"slow": self.slow}

    def resume(self, saved: set[str], step: int) -> None:
        """A checkpoint is about to be read into `tensors()`."""
        self.steps = step


def build_lookahead(config: RunConfig, setup: MethodSetup) -> Lookahead | None:
    """The method of a run; None where it is off."""
    return Lookahead(setup.shards, config.lookahead) if config.lookahead.every else None


register(
    MethodRow(
        "lookahead",
        off="lookahead.every is 0",
        build=build_lookahead,
        bytes_per_weight=lambda config: 4 if config.lookahead.every else 0,  # for `rtk plan`
        kinds={"slow": "Lookahead's slow weights"},  # in words, for messages about checkpoints
        block=LookaheadConfig,
    )
)
