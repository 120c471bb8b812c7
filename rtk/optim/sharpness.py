"""Sharpness-aware minimisation: SAM, ASAM and Friendly SAM around any torch optimiser."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rtk.optim.method import Method, MethodRow, MethodSetup
from rtk.optim.shards import LocalShards, Shards

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig

VARIANTS = ("sam", "fsam")
EPSILON = 1e-12  # keeps the division by the norm finite, as published
GRADIENT_AVERAGE = "gradient_average"  # in checkpoints
PART = 2**22  # elements worked on at a time where a temporary copy is needed


class SharpnessAware(Optimizer, Method):
    """SAM, ASAM and F-SAM.

    Ascent: e = rho * s^2 * d / ||s * d||, with s = |w| (ASAM) or 1; then the gradient at w + e
    drives a step of the base optimiser from w. The norm runs over all weights of all ranks.

    - `sam`: d = g, the gradient at w (Foret et al. 2021, equation 2).
    - `fsam`: d = g - sigma * m, where m is the moving average of earlier gradients; m then becomes
      lmbda * m + (1 - lmbda) * g. The first step is plain SAM and sets m = g (Friendly SAM,
      Li et al. 2024, algorithm 1, in the order of its published code).
    - `adaptive=True`: ASAM (Kwon et al. 2021, equation 5), with either direction.

    With `every=k` only each k-th step ascends, the first one included; the others are plain steps of the
    base optimiser at half the cost, and leave m alone.

    Memory beside the base optimiser: 4 bytes per weight for the backup during a step, and 4 for m.

    Args:
        base_optimizer: any torch optimiser; its parameter groups and state are shared.
        variant: `sam` or `fsam`.
        rho: radius of the ascent step.
        sigma: share of the gradient average that F-SAM takes off.
        lmbda: decay of F-SAM's gradient average.
        adaptive: scale the radius by the weights (ASAM).
        every: ascend in one step of this many.
        shards: where the weights live; by default the base optimiser's own parameters.

    Raises:
        ValueError: for an unknown variant, a negative rho, or `every` below 1.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        variant: str = "sam",
        rho: float = 0.05,
        sigma: float = 1.0,
        lmbda: float = 0.9,
        adaptive: bool = False,
        every: int = 1,
        shards: Shards | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant: got {variant!r}, wanted one of {', '.join(VARIANTS)}")
        if rho < 0:
            raise ValueError(f"rho: got {rho}, wanted a number >= 0")
        if every < 1:
            raise ValueError(f"every: got {every}, wanted an integer >= 1")
        # The groups are set below; a learning-rate schedule must see the base optimiser's own.
        super().__init__([torch.empty(0)], {})
        self.base = base_optimizer
        self.param_groups = base_optimizer.param_groups
        self.state = base_optimizer.state
        self.variant, self.rho, self.sigma, self.lmbda = variant, rho, sigma, lmbda
        self.adaptive, self.every = adaptive, every
        self.steps = 0
        self.shards = LocalShards(base_optimizer) if shards is None else shards
        self.averaged = self.shards.averaged
        self.gradient_average: list[Tensor] | None = None
        self._backup: list[Tensor] | None = None

    def tensors(self) -> dict[str, list[Tensor]]:
        """F-SAM's gradient average, once there is one."""
        return {} if self.gradient_average is None else {GRADIENT_AVERAGE: self.gradient_average}

    def resume(self, saved: Collection[str], step: int) -> None:
        """Make room for the gradient average; the number of steps is the caller's."""
        if GRADIENT_AVERAGE in saved:
            self.gradient_average = [torch.zeros_like(weight) for weight in self.shards.weights()]

    def ascends_at(self, step: int) -> bool:
        """Whether the update with this number (from 0) has an ascent."""
        return step % self.every == 0

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights to w + e, from the gradients at w, and clear the gradients."""
        weights, directions = self.shards.weights(), self.shards.gradients()
        self.shards.clear_gradients()  # the list above is now all that holds them: it is worked on in place
        if self.variant == "fsam":
            self._take_off_average(directions)
        if self.adaptive:
            torch._foreach_mul_(directions, weights)  # s * d; the sign of s does not change its norm
        norms = torch._foreach_norm(directions) if directions else [torch.zeros(())]
        norm = self.shards.sum_over_shards(torch.stack(norms).square().sum()).sqrt()
        if self.adaptive:
            torch._foreach_mul_(directions, weights)  # s^2 * d
        self._backup = [weight.clone() for weight in weights]
        # Scalar and shard may differ in dtype under mixed precision; `add_` computes in the weight's.
        scale = (self.rho / (norm + EPSILON)).item()
        for weight, direction in zip(weights, directions, strict=True):
            weight.add_(direction.to(weight.dtype), alpha=scale)
        self.shards.publish()

    @torch.no_grad()
    def restore(self) -> None:
        """Move the weights back to w, bit by bit; the model sees them after the base step."""
        if self._backup is None:
            raise RuntimeError("restore() without ascend(): there is nothing to go back to")
        for weight, saved in zip(self.shards.weights(), self._backup, strict=True):
            weight.copy_(saved)
        self._backup = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One whole step: gradient at w, ascent, gradient at w + e, restore, base step.

        Args:
            closure: clears nothing itself; computes the loss, back-propagates it and returns it.
                It is called twice in a step that ascends, each time with gradients cleared.

        Returns:
            The loss at w, as the closure returned it first.
        """
        if closure is None:
            raise ValueError("closure: got None, wanted a function that back-propagates and returns the loss")
        self.shards.clear_gradients()
        with torch.enable_grad():
            loss = closure()
        if self.ascends_at(self.steps):
            self.ascend()
            with torch.enable_grad():
                closure()
            self.restore()
        self.base.step()
        self.steps += 1
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the base optimiser's parameters."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimiser, the gradient average and the number of steps."""
        return {
            "base": self.base.state_dict(),
            "gradient_average": self.gradient_average,
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.gradient_average = state_dict["gradient_average"]
        self.steps = state_dict["steps"]

    def _take_off_average(self, gradients: list[Tensor]) -> None:
        """Turn gradients into F-SAM's directions, in place; move its average on."""
        if self.gradient_average is None:
            self.gradient_average = [gradient.clone() for gradient in gradients]
            return
        for gradient, average in zip(gradients, self.gradient_average, strict=True):
            # By parts, for a shard may be as large as all weights.
            for g, m in zip(_parts(gradient), _parts(average), strict=True):
                direction = torch.sub(g, m, alpha=self.sigma)
                m.lerp_(g, 1 - self.lmbda)
                g.copy_(direction)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views that make up a tensor, of about `PART` elements each; rows, so that any strides will do."""
    rows = torch.atleast_1d(tensor)
    return rows.split(max(1, PART * len(rows) // max(1, tensor.numel())))


def build_sharpness(config: RunConfig, setup: MethodSetup) -> SharpnessAware | None:
    """The sharpness-aware step of a config; None where it is off."""
    settings = config.sharpness
    if settings.variant == "none":
        return None
    return SharpnessAware(
        setup.optimizer,
        "fsam" if settings.variant == "fsam" else "sam",
        rho=settings.rho,
        sigma=settings.sigma,
        lmbda=settings.lmbda,
        adaptive=settings.variant == "asam",
        every=settings.every,
        shards=setup.own_shards() if settings.sync == "local" else setup.shards,
    )


SHARPNESS = MethodRow(
    "sharpness",
    off="sharpness.variant is none",
    build=build_sharpness,
    bytes_per_weight=lambda config: 4 * (config.sharpness.variant == "fsam"),
    second_pass_bytes=lambda config: 4 * (config.sharpness.variant != "none"),
    kinds={GRADIENT_AVERAGE: "an F-SAM gradient average"},
)
