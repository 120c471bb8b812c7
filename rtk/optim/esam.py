"""ESAM: some of the weights are moved, and the second pass learns from the images that notice it most."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from rtk.optim.shards import Shards, dense
from rtk.optim.sharpness import SharpnessAware


class EfficientSam(SharpnessAware):
    """ESAM (Du et al., ICLR 2022, arXiv 2110.03141, algorithm 1) around any torch optimiser.

    - Stochastic weight perturbation: each tensor of weights takes part in a step's ascent with a chance,
      beta, drawn anew in each step: e = rho / beta * g / ||g||, where g has their gradients alone.
    - Sharpness-sensitive data selection: the gradient at w + e is that of a share, gamma, of the batch: the
      images whose loss rose most from w to w + e (`most_risen`). It drives a step of all weights.

    Tensors are drawn as a function of seed, step and the parameter's name, so that all ranks, and a resumed
    run, agree. As everywhere in rtk the first pass makes the gradients of all weights.

    What the passes look at is the caller's business: in a loop of one's own

    ```python
    before = losses_of(images, labels)  # (N,)
    before.mean().backward()
    with optimizer.ascended():
        with torch.no_grad():
            after = losses_of(images, labels)
        chosen = most_risen(before.detach(), after, count=len(images) // 2)
        losses_of(images[chosen], labels[chosen]).mean().backward()
    optimizer.before_step()
    optimizer.base.step()
    optimizer.zero_grad()
    ```

    while `step(closure)` takes both passes over whatever the closure does.

    Memory beside the base optimiser: 4 bytes per weight for the backup during the second pass.

    Args:
        base_optimizer: any torch optimiser that takes steps without a closure.
        rho: radius of the ascent step.
        share: gamma, which rtk's training step goes by.
        perturbed: beta; 1 moves all weights, as SAM.
        every: ascend in one step of this many.
        seed: of the draws.
        shards: where the weights live; by default the base optimiser's own parameters.

    Raises:
        ValueError: as `SharpnessAware`, and for a `share` or `perturbed` that is not in (0, 1].
    """

    pickled: ClassVar[tuple[str, ...]] = (
        *SharpnessAware.pickled,
        *("second_pass_share", "perturbed", "seed"),
    )

    def __init__(
        self,
        base_optimizer: Optimizer,
        rho: float = 0.05,
        share: float = 0.5,
        perturbed: float = 0.6,
        every: int = 1,
        seed: int = 0,
        shards: Shards | None = None,
    ) -> None:
        for name, value in {"share": share, "perturbed": perturbed}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name}: got {value}, wanted a number above 0, and at most 1")
        super().__init__(base_optimizer, "sam", rho=rho, every=every, shards=shards)
        self.variant, self.second_pass_share = "esam", share
        self.perturbed, self.seed = perturbed, seed

    def takes_part(self, name: str) -> bool:
        """Whether a parameter is moved in this step."""
        key = [self.seed, self.steps, zlib.crc32(name.encode())]
        return bool(np.random.default_rng(np.random.SeedSequence(key)).random() < self.perturbed)

    @property
    def _radius(self) -> float:
        return self.rho / self.perturbed

    def _directions(self, keys: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        directions = dense(gradients)
        for fragment in self.shards.fragments():
            if self.perturbed < 1 and not self.takes_part(fragment.name):
                shard = directions[fragment.shard]
                # A whole parameter of any strides, or a part of a flat shard.
                (shard if shard.numel() == fragment.numel else fragment.of(directions)).zero_()
        return directions


def most_risen(before: Tensor, after: Tensor, count: int) -> Tensor:
    """Indices int64 (count,), ascending, of the images whose loss rose most; of equal ones the first.

    Args:
        before: losses (N,) at w.
        after: losses (N,) at w + e.
        count: number of images.
    """
    rise = after - before
    return rise.sort(descending=True, stable=True).indices[:count].sort().values
