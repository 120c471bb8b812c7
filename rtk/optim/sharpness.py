"""Sharpness-aware minimisation: SAM, ASAM and Friendly SAM around any torch optimiser.

`looksam.py`, `msam.py` and `esam.py` build on the class here; `sharpness_row.py` picks by the config.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from rtk.optim.ascent import move_averages_, sum_of_squares
from rtk.optim.earlier_state import as_laid_out_now
from rtk.optim.method import Method
from rtk.optim.shards import LocalShards, Shards, dense, wide_dtype, zeros_of

VARIANTS = ("sam", "asam", "fsam")
EPSILON = 1e-12  # keeps the division by the norm finite, as published
GRADIENT_AVERAGE = "gradient_average"  # in checkpoints and in `state`


class SharpnessAware(Optimizer, Method):
    """SAM, ASAM and F-SAM.

    Ascent: e = rho * s^2 * d / ||s * d||, with s = |w| (ASAM) or 1; then the gradient at w + e
    drives a step of the base optimiser from w. The norm runs over all weights of all ranks.

    - `sam`: d = g, the gradient at w (Foret et al. 2021, equation 2).
    - `asam`: the same with `adaptive=True` (Kwon et al. 2021, equation 5), which goes with `fsam` too.
    - `fsam`: d = g - sigma * m, where m is the moving average of earlier gradients; m then becomes
      lmbda * m + (1 - lmbda) * g. The first step is plain SAM and sets m = g (Friendly SAM,
      Li et al. 2024, algorithm 1, in the order of its published code).

    With `every=k` only each k-th step ascends, the first one included; the others are plain steps of the
    base optimiser at half the cost, and leave m alone. That is known to lose accuracy (Liu et al. 2022, arXiv
    2203.02714, whose `LookSam` costs the same and loses little).

    Where a gradient is not finite there is no ascent either, and m stays as it is: what comes of the step is
    for the base optimiser, or a `GradScaler`, to say.

    A torch optimiser like any other: schedulers, `add_param_group`, `state_dict`, copying and pickling work
    as they do for the base, with which it shares `param_groups` and `defaults`. `state` holds m by parameter,
    in at least fp32: one that was frozen for a while goes on with its own. The base's state is `base.state`.

    Memory beside the base optimiser: 4 bytes per weight for the backup during a step, and 4 for m.

    In a loop of one's own, where `step` does not fit (as with a `GradScaler`):

    ```python
    scaler.scale(loss_of(images)).backward()
    scaler.unscale_(optimizer)
    with optimizer.ascended():
        scaler.scale(loss_of(images)).backward()
    optimizer.before_step()
    scaler.step(optimizer.base)
    scaler.update()
    optimizer.zero_grad()
    ```

    Args:
        base_optimizer: any torch optimiser that takes steps without a closure.
        variant: `sam`, `asam` or `fsam`.
        rho: radius of the ascent step.
        sigma: share of the gradient average that F-SAM takes off.
        lmbda: decay of F-SAM's gradient average.
        adaptive: scale the radius by the weights (ASAM).
        every: ascend in one step of this many.
        shards: where the weights live; by default the base optimiser's own parameters.

    Raises:
        ValueError: for LBFGS, an unknown variant, a number that is not finite or out of its range, or `every`
            that is no integer above 0.
    """

    kind: ClassVar[str] = GRADIENT_AVERAGE  # what `state` holds of a parameter
    pickled: ClassVar[tuple[str, ...]] = (
        *("base", "shards", "averaged", "variant", "rho", "sigma", "lmbda", "adaptive", "every"),
        *("steps", "_backup"),
    )

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
        _check_settings(variant, rho, sigma, lmbda, every)
        if isinstance(base_optimizer, torch.optim.LBFGS):
            raise ValueError("base_optimizer: got LBFGS, wanted one that does not evaluate the loss itself")
        self.base = base_optimizer
        super().__init__(base_optimizer.param_groups, base_optimizer.defaults)
        self.variant, self.rho, self.sigma, self.lmbda = variant, rho, sigma, lmbda
        self.adaptive, self.every = adaptive or variant == "asam", every
        self.steps = 0
        self.shards = LocalShards(base_optimizer) if shards is None else shards
        self.averaged = self.shards.averaged
        self._backup: list[tuple[Tensor, Tensor]] | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimiser's own, also after its `load_state_dict`, which makes new ones."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        if groups:  # `Optimizer.__init__` begins with an empty list
            self.base.param_groups = groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimiser."""
        if all(
            param_group is not group for group in self.param_groups
        ):  # `__init__` adds those that are there
            self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the base optimiser's parameters."""
        self.base.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One whole step: gradient at w, ascent, gradient at w + e, restore, base step.

        Args:
            closure: clears nothing itself; computes the loss, back-propagates it and returns it.
                It is called twice in a step that ascends, each time with gradients cleared. Where it raises,
                the weights are w, and no step has been taken.

        Returns:
            The loss of the first pass, at w, as the closure returned it.
        """
        if closure is None:
            raise ValueError("closure: got None, wanted a function that back-propagates and returns the loss")
        self.shards.clear_gradients()
        with self.first_pass(), torch.enable_grad():
            loss = closure()
        if self.ascends_at(self.steps):
            with self.ascended(), torch.enable_grad():
                closure()
        self.before_step()
        self.base.step()
        return loss

    def before_step(self) -> None:
        """Count the step that the optimiser is about to take."""
        self.steps += 1

    def ascends_at(self, step: int) -> bool:
        """Whether the update with this number (from 0) has an ascent."""
        return step % self.every == 0

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights to w + e, from the gradients at w, and clear the gradients.

        Raises:
            RuntimeError: they have been moved already.
        """
        if self._backup is not None:
            raise RuntimeError("ascend() without restore() of the one before: w would be lost")
        keys, gradients = self.shards.owners(), self.shards.gradients()
        self.shards.clear_gradients()  # the list above is now all that holds them: it is worked on in place
        weights, directions = self.shards.weights(), self._directions(keys, gradients)
        norm = self._norm(directions, weights if self.adaptive else None)
        # Read at once: the one place where the host waits for the device.
        scale, length = torch.stack([self._radius / (norm + EPSILON), norm]).tolist()
        if not math.isfinite(length):
            self._move(keys, directions, 0.0)
            return
        self._take_in(keys, directions, length)
        if self.adaptive:
            torch._foreach_mul_(directions, weights)
            torch._foreach_mul_(directions, weights)  # s^2 * d; the sign of s does not matter
        self._move(keys, directions, scale)

    @torch.no_grad()
    def restore(self) -> None:
        """Move the weights back to w, bit by bit; under ZeRO the model sees them after the base step.

        Raises:
            RuntimeError: they have not been moved.
        """
        if self._backup is None:
            raise RuntimeError("restore() without ascend(): there is nothing to go back to")
        if self._backup:
            torch._foreach_copy_([key.data for key, _ in self._backup], [saved for _, saved in self._backup])
        self._backup = None

    @property
    def _radius(self) -> float:
        """Length of the move."""
        return self.rho

    def _norm(self, tensors: list[Tensor], factors: list[Tensor] | None = None) -> Tensor:
        return self.shards.sum_over_shards(sum_of_squares(tensors, factors)).sqrt()

    def _directions(self, keys: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Where to ascend, from the gradients of the first pass, which may be worked on in place."""
        if self.variant != "fsam":
            return gradients
        directions = dense(gradients)  # less its average a gradient is sparse no longer
        pairs = zip(keys, directions, strict=True)
        known = [(g, self.state[key][GRADIENT_AVERAGE]) for key, g in pairs if self.state[key]]
        if known:
            torch._foreach_sub_([g for g, _ in known], [m for _, m in known], alpha=self.sigma)
        return directions

    def _take_in(self, keys: list[Tensor], directions: list[Tensor], length: float) -> None:
        """Move F-SAM's average on, once the directions, of this norm, are known to be finite."""
        if self.variant != "fsam":
            return
        known = [(key, direction) for key, direction in zip(keys, directions, strict=True) if self.state[key]]
        averages = [self.state[key][GRADIENT_AVERAGE] for key, _ in known]
        move_averages_(averages, [direction for _, direction in known], self.sigma, self.lmbda)
        for key, direction in zip(keys, directions, strict=True):
            if not self.state[key]:
                self.state[key][GRADIENT_AVERAGE] = direction.clone()

    def _move(self, keys: list[Tensor], directions: list[Tensor], scale: float) -> None:
        """Keep the weights for `restore`, and move them."""
        self._backup = [(key, key.data.clone()) for key in keys]
        try:
            if scale and keys:  # else a gradient is not finite, and would make the weights so
                torch._foreach_add_([key.data for key in keys], directions, alpha=scale)
            self.shards.publish()
        except BaseException:
            self.restore()
            raise

    def tensors(self) -> dict[str, list[Tensor]]:
        """What it keeps of the weights (F-SAM's gradient average), once there is something."""
        if not self.state:
            return {}
        return {self.kind: [self.state[key][self.kind] for key in self.shards.owners()]}

    def resume(self, saved: Collection[str], step: int) -> None:
        """Make room for what it kept, and count on."""
        self.steps = step
        if self.kind in saved:
            pairs = zip(self.shards.owners(), self.shards.weights(), strict=True)
            self.state = defaultdict(dict, {key: {self.kind: zeros_of(weight)} for key, weight in pairs})

    def state_dict(self) -> dict[str, Any]:
        """State of the base optimiser with what is kept here among it, and the number of steps."""
        own, base = super().state_dict()["state"], self.base.state_dict()
        numbers = sorted({*own, *base["state"]})
        state = {n: {**base["state"].get(n, {}), **own.get(n, {})} for n in numbers}
        return {**base, "state": state, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; what is kept goes to its parameters' devices, at least fp32.

        Raises:
            ValueError: its groups have other numbers of parameters.
        """
        keys = [parameter for group in self.param_groups for parameter in group["params"]]
        state_dict = dict(as_laid_out_now(state_dict, keys, GRADIENT_AVERAGE))
        state = {number: dict(kept) for number, kept in state_dict["state"].items()}
        own = {number: kept.pop(self.kind, None) for number, kept in state.items()}
        self.base.load_state_dict({**state_dict, "state": {n: kept for n, kept in state.items() if kept}})
        found = {keys[n]: tensor for n, tensor in own.items() if tensor is not None}
        self.state = defaultdict(
            dict, {key: {self.kind: _kept_of(key, tensor)} for key, tensor in found.items()}
        )
        self.steps = state_dict["steps"]

    def __getstate__(self) -> dict[str, Any]:
        # Not `step`, which a scheduler wraps in the object itself, nor hooks: as torch's own optimisers.
        return {
            "defaults": self.defaults,
            "state": self.state,
            **{name: getattr(self, name) for name in self.pickled},
        }


def _check_settings(variant: str, rho: float, sigma: float, lmbda: float, every: int) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"variant: got {variant!r}, wanted one of {', '.join(VARIANTS)}")
    for name, value in {"rho": rho, "sigma": sigma}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value}, wanted a finite number >= 0")
    if not 0 <= lmbda <= 1:
        raise ValueError(f"lmbda: got {lmbda}, wanted a number from 0 to 1")
    if every < 1 or not float(every).is_integer():
        raise ValueError(f"every: got {every}, wanted an integer >= 1")


def _kept_of(parameter: Tensor, saved: Tensor) -> Tensor:
    """A copy where the parameter is: the average is moved on in place, and what was saved is the caller's."""
    return saved.detach().to(parameter.device, wide_dtype(parameter), copy=True)
