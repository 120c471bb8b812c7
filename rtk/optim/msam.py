"""Momentum SAM: the momentum is the way to go, so that SAM costs no second pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from rtk.optim.shards import Shards
from rtk.optim.sharpness import EPSILON, SharpnessAware

MOMENTA = ("momentum_buffer", "exp_avg")  # what torch's optimisers call it


class MomentumSam(SharpnessAware):
    """MSAM (Becker et al. 2024, arXiv 2401.12033, algorithm 1) around a torch optimiser with momentum.

    The gradient of every step is taken at w - rho * v / ||v||, and drives a step of the base optimiser from
    w. v is its momentum (SGD's buffer, Adam's first moment), which points uphill: the weights are moved
    ahead, the way that they go. The norm runs over all weights of all ranks. There is no momentum at the
    first step, which is a plain one.

    Weight decay is the base optimiser's, at w. (Published code moves the weights within the optimiser, so
    that SGD's decay is of the moved ones, and writes an AdamW that decays after the step, not before it.)

    Memory beside the base optimiser: 4 bytes per weight for the backup during the pass.

    In a loop of one's own the pass is made in `with optimizer.first_pass():`, and the base's step after it.

    Args:
        base_optimizer: a torch optimiser that keeps a momentum.
        rho: how far ahead.
        shards: where the weights live; by default the base optimiser's own parameters.

    Raises:
        ValueError: as `SharpnessAware`, and for an optimiser without momentum.
    """

    def __init__(self, base_optimizer: Optimizer, rho: float = 0.05, shards: Shards | None = None) -> None:
        super().__init__(base_optimizer, "sam", rho=rho, shards=shards)
        self.variant = "msam"
        if not (self.defaults.get("momentum") or self.defaults.get("betas")):
            raise ValueError(
                f"base_optimizer: got {type(base_optimizer).__name__} without momentum, wanted one with it"
            )

    def ascends_at(self, step: int) -> bool:
        """Never: there is no second pass."""
        return False

    @contextmanager
    def first_pass(self) -> Iterator[None]:
        """Context of the only pass: the weights are moved ahead, and moved back whatever happens."""
        self.ascend()
        try:
            yield
        finally:
            self.restore()

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights ahead; gradients are left alone."""
        if self._backup is not None:
            raise RuntimeError("ascend() without restore() of the one before: w would be lost")
        keys = self.shards.owners()
        momenta = [self._momentum(key) for key in keys]
        norm = self._norm([momentum for momentum in momenta if momentum is not None])
        scale, length = torch.stack([self.rho / (norm + EPSILON), norm]).tolist()  # read at once
        if not length or not math.isfinite(length):
            self._backup = []  # there is nothing to go back to
            return
        moved = {key: momentum for key, momentum in zip(keys, momenta, strict=True) if momentum is not None}
        self._move(list(moved), list(moved.values()), -scale)

    def _momentum(self, key: Tensor) -> Tensor | None:
        kept = self.base.state.get(key, {})
        return next((kept[name] for name in MOMENTA if kept.get(name) is not None), None)
