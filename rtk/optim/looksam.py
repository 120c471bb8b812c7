"""LookSAM: what SAM adds to the gradient is kept, and used again in the steps between ascents."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from rtk.optim.ascent import dot, sum_of_squares
from rtk.optim.shards import Shards, dense, zeros_of
from rtk.optim.sharpness import EPSILON, SharpnessAware

ORTHOGONAL_GRADIENT = "orthogonal_gradient"  # in checkpoints and in `state`


class LookSam(SharpnessAware):
    """LookSAM (Liu et al., CVPR 2022, arXiv 2203.02714, algorithm 1) around any torch optimiser.

    Each k-th step is one of SAM. Of its gradient g_s, at w + e, the part that is orthogonal to the gradient g
    at w is kept: g_v = g_s - (g_s . g / ||g||^2) g, which flattens and changes slowly. The steps between take
    one pass, and g + alpha * ||g|| / ||g_v|| * g_v drives the base optimiser. Norms and products run over all
    weights of all ranks, as in the paper (some public code takes them tensor by tensor).

    SAM itself adds ||g_v|| / ||g||, which grows with rho: early in training, a ResNet-18 of width 16 on
    CIFAR-100, some 0.1 at rho 0.05, 0.3 at 0.2 and 1 at 1. An alpha far above it flattens more than SAM does,
    at first so much that nothing is learned: 8 epochs at rho 0.05 end at 5 % accuracy with 0.7 and
    at 19 % with 0.1.

    Where a gradient of the first pass is not finite nothing is kept nor added; where one of the second pass
    is not, what was kept is zero, so that the steps up to the next ascent are plain ones.

    Memory beside the base optimiser: 4 bytes per weight for g_v (g, in the second pass), and 4 for the backup
    then. In a loop of one's own call `before_step` as `SharpnessAware` shows.

    Args:
        base_optimizer: any torch optimiser that takes steps without a closure.
        rho: radius of the ascent step.
        alpha: length of the added part, as a share of the gradient's.
        every: k; 1 is SAM.
        shards: where the weights live; by default the base optimiser's own parameters.

    Raises:
        ValueError: as `SharpnessAware`, and for an `alpha` that is negative or not finite.
    """

    kind: ClassVar[str] = ORTHOGONAL_GRADIENT
    pickled: ClassVar[tuple[str, ...]] = (*SharpnessAware.pickled, "alpha", "_square")

    def __init__(
        self,
        base_optimizer: Optimizer,
        rho: float = 0.05,
        alpha: float = 0.7,
        every: int = 5,
        shards: Shards | None = None,
    ) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha: got {alpha}, wanted a finite number >= 0")
        super().__init__(base_optimizer, "sam", rho=rho, every=every, shards=shards)
        self.variant, self.alpha = "looksam", alpha
        self._square: float | None = None  # ||g||^2 of a step that has ascended

    def _directions(self, keys: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        return dense(gradients)

    def _take_in(self, keys: list[Tensor], directions: list[Tensor], length: float) -> None:
        self._square = length**2
        for key, gradient in zip(keys, directions, strict=True):
            # Not a copy. The g_v that was there has had its last step.
            self.state[key][ORTHOGONAL_GRADIENT] = gradient

    @torch.no_grad()
    def before_step(self) -> None:
        """After an ascent keep the new part; in a step without one, add it to the averaged gradients."""
        if self._square is not None:
            self._keep(self._square)
            self._square = None
        elif self.state:
            self._add()
        super().before_step()

    def _keep(self, square: float) -> None:
        firsts, seconds = self._kept(), dense(self.shards.gradients())
        product = self.shards.sum_over_shards(dot(firsts, seconds)).item()
        share = product / square if square > 0 else 0.0
        if not math.isfinite(share):
            torch._foreach_zero_(firsts)
        elif firsts:
            torch._foreach_mul_(firsts, -share)
            torch._foreach_add_(firsts, seconds)

    def _add(self) -> None:
        kept = self._kept()
        squares = [sum_of_squares(tensors) for tensors in (self.shards.gradients(), kept)]
        dtype = torch.promote_types(squares[0].dtype, squares[1].dtype)
        both = torch.stack([square.to(squares[0].device, dtype) for square in squares])
        norm, length = self.shards.sum_over_shards(both).sqrt().tolist()
        scale = self.alpha * norm / (length + EPSILON)
        if length and math.isfinite(scale):
            self.shards.add_to_gradients(kept, scale)

    def _kept(self) -> list[Tensor]:
        """What is kept of every owned weight; zeros of one that was frozen when the last step ascended."""
        keys, weights = self.shards.owners(), self.shards.weights()
        for key, weight in zip(keys, weights, strict=True):
            if ORTHOGONAL_GRADIENT not in self.state[key]:
                self.state[key][ORTHOGONAL_GRADIENT] = zeros_of(weight)
        return [self.state[key][ORTHOGONAL_GRADIENT] for key in keys]
