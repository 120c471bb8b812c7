"""Averages of the weights along the run (EMA, SWA), and BatchNorm statistics to go with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtk.config.sections import duration_steps
from rtk.models.batchnorm import batchnorm_layers
from rtk.optim.method import Method, MethodRow, MethodSetup
from rtk.optim.shards import Shards, wide_dtype

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.config.training import AveragingConfig

AVERAGE = "average"  # in checkpoints


def ema_decay(update: int, decay: float = 0.9998, ramp: float = 2000.0) -> float:
    """Decay of the `update`-th update (1-based): decay * (1 - exp(-update / ramp)).

    The ramp lets a young average follow the weights (as in SUREPlus and YOLOX).
    """
    return decay * (1 - math.exp(-update / ramp))


def ema_rate(update: int, decay: float = 0.9998, ramp: float = 2000.0) -> float:
    """Share of the present weights that the EMA takes in: 1 - `ema_decay`."""
    return 1 - ema_decay(update, decay, ramp)


def swa_rate(update: int, start: int = 0, every: int = 1) -> float:
    """Share of the present weights that SWA takes in at the `update`-th update (1-based).

    The n-th model that counts has the share 1/n, so that all weigh the same (stochastic weight averaging,
    Izmailov et al. 2018, algorithm 1). Until the first one the average follows the weights.

    Args:
        update: number of the update.
        start: updates before averaging begins.
        every: updates from one averaged model to the next (an epoch, in the paper).
    """
    after = update - start
    if after <= every:
        return 1.0
    return 0.0 if after % every else 1 / (after // every)


class WeightAverage(Method):
    """Average of the weights that this rank owns, and of the model's float buffers.

    Memory: 4 bytes per weight, on the shard; buffers are small and kept on every rank. Averages of fp16 and
    bf16 are kept in fp32, or small shares would be rounded away. A parameter that is frozen stays in the
    average, and one that is thawed comes in with what it is then.

    Args:
        shards: where the weights live.
        model: module whose floating-point buffers (BatchNorm statistics) are averaged too.
        rate: share of the present weights in the average after an update, a function of the update's
            number (1-based), such as `ema_rate` or `swa_rate` with their settings. Being a function of the
            number alone, it needs no state in a checkpoint.
    """

    def __init__(self, shards: Shards, model: nn.Module, rate: Callable[[int], float] = ema_rate) -> None:
        self.shards, self.model, self.rate = shards, model, rate
        self.updates = 0
        self.weights: dict[Tensor, Tensor] = {}
        self._take_in_new_owners()
        self.buffers = {name: _copy(buffer) for name, buffer in float_buffers(model).items()}

    def _take_in_new_owners(self) -> None:
        for owner in self.shards.owners():
            if owner not in self.weights:
                self.weights[owner] = _copy(owner)

    def tensors(self) -> dict[str, list[Tensor]]:
        """The averaged weights."""
        owners = self.shards.owners()
        return {AVERAGE: [self.weights[owner] for owner in owners]}

    def common_tensors(self) -> dict[str, Tensor]:
        """The averaged buffers."""
        return {f"{AVERAGE}|{name}": buffer for name, buffer in self.buffers.items()}

    def resume(self, saved: Collection[str], step: int) -> None:
        """Go on as after `step` updates."""
        self.updates = step

    def after_step(self) -> None:
        """Take in the present weights."""
        self.update()

    def evaluated(self) -> AbstractContextManager[None]:
        """Evaluation is of the average."""
        return self.applied()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights: average = (1 - rate) * average + rate * weight."""
        self.updates += 1
        rate = self.rate(self.updates)
        if rate == 0:
            return
        self._take_in_new_owners()
        live = [owner.data.to(average.dtype) for owner, average in self.weights.items()]
        torch._foreach_lerp_(list(self.weights.values()), live, rate)
        buffers = float_buffers(self.model)
        averages = [self.buffers[name] for name in buffers]
        live = [buffer.to(average.dtype) for buffer, average in zip(buffers.values(), averages, strict=True)]
        if averages:
            torch._foreach_lerp_(averages, live, rate)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model compute with the average for a while; changes of its buffers are kept."""
        pairs = self.weights.items()
        rounded = [(mean, mean.clone()) for owner, mean in pairs if owner.dtype != mean.dtype]
        self._swap()
        try:
            yield
        finally:
            self._swap()
            for mean, exact in rounded:
                mean.copy_(exact)

    @torch.no_grad()
    def _swap(self) -> None:
        pairs = [(owner.data, average) for owner, average in self.weights.items()]
        pairs += [(buffer, self.buffers[name]) for name, buffer in float_buffers(self.model).items()]
        for live, average in pairs:
            kept = live.clone()
            live.copy_(average)
            average.copy_(kept)
        self.shards.publish()


def averaging_rate(config: AveragingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Share of the present weights in the average, by the number of the update."""
    if config.kind == "ema":
        return partial(ema_rate, decay=config.decay, ramp=config.ramp)
    start = duration_steps(config.start, steps_per_epoch)
    return partial(swa_rate, start=start, every=duration_steps(config.every, steps_per_epoch))


def build_average(config: RunConfig, setup: MethodSetup) -> WeightAverage | None:
    """The average of a config; None where it is off."""
    if config.averaging.kind == "none":
        return None
    rate = averaging_rate(config.averaging, setup.steps_per_epoch)
    return WeightAverage(setup.shards, setup.model, rate)


AVERAGING = MethodRow(
    "averaging",
    off="averaging.kind is none",
    build=build_average,
    bytes_per_weight=lambda config: 4 * (config.averaging.kind != "none"),
    kinds={AVERAGE: "averaged weights"},
)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to(dtype=wide_dtype(tensor), copy=True)


def float_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Floating-point buffers that belong to the model's state, by name."""
    return {
        f"{prefix}.{name}" if prefix else name: buffer
        for prefix, module in model.named_modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
        and name not in module._non_persistent_buffers_set
        and buffer.is_floating_point()
    }


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute running statistics under the present weights, on the given images.

    Every batch counts the same: the statistics become the mean over batches of the batch mean and
    of the unbiased batch variance (Izmailov et al. 2018, section 3.2; torch's `update_bn`). The
    training mode, the momenta and the weights stay as they were; after an error the statistics do too.

    Args:
        model: any module with BatchNorm layers; without any, no batch is read.
        batches: images (N, 3, H, W), as the model takes them at evaluation time.

    Raises:
        ValueError: there is no batch.
    """
    layers = batchnorm_layers(model)
    if not layers:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    buffers = [(buffer, buffer.clone()) for layer in layers for buffer in layer.buffers()]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    try:
        _run_all(model, batches)
    except BaseException:
        for buffer, before in buffers:
            buffer.copy_(before)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in modes:
            module.training = training


def _run_all(model: nn.Module, batches: Iterable[Tensor]) -> None:
    found = False
    for images in batches:
        model(images)
        found = True
    if not found:
        raise ValueError("batches: got none, wanted at least one: statistics are means over batches")
