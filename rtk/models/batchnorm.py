"""BatchNorm's running statistics: whose images may move them, and whose may not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batchnorm_buffers(model: nn.Module) -> list[Tensor]:
    """Running statistics of the BatchNorm layers, which a step moves on every rank by its own images."""
    statistics = [s for layer in batchnorm_layers(model) for s in (layer.running_mean, layer.running_var)]
    return [statistic for statistic in statistics if statistic is not None]


def batchnorm_layers(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers of a model, in order."""
    return [module for module in modules_of(model) if isinstance(module, _BatchNorm)]


def modules_of(model: nn.Module) -> list[nn.Module]:
    """`model.modules()` in a tenth of the time, for what every pass asks for."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found[module] = None
            waiting += [child for child in reversed(module._modules.values()) if child is not None]
    return list(found)


@contextmanager
def fixed_running_statistics(model: nn.Module) -> Iterator[None]:
    """Keep BatchNorm's running statistics as they are, while it normalises by the batch as in training.

    Mixed views, attack passes and the second pass of SAM must not leak into the statistics that
    the model is evaluated with.
    """
    layers = [layer for layer in batchnorm_layers(model) if layer.training and layer.track_running_stats]
    for layer in layers:  # past `nn.Module.__setattr__`, a fiftieth of a small network's step
        vars(layer)["track_running_stats"] = False
    try:
        yield
    finally:
        for layer in layers:
            vars(layer)["track_running_stats"] = True


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Let all modules compute as in evaluation for a while; each goes back to the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def undone_recomputation(model: nn.Module) -> Iterator[None]:
    """Around a backward pass: activation checkpointing runs layers again, which moves statistics again."""
    modules = modules_of(model)
    recomputes = any("grad_checkpointing" in vars(module) and module.grad_checkpointing for module in modules)
    buffers = [b for layer in batchnorm_layers(model) for b in layer.buffers()] if recomputes else []
    before = [buffer.clone() for buffer in buffers]
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
