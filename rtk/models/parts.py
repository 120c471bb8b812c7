"""Parts of any model that scores ask for: its head and the features before it, its last two stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rtk.models.ensemble import JoinedBackbones


def head_weights(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight rows (C, D) and bias (C,) that a model's features are multiplied with.

    Raises:
        ValueError: it has no linear layer.
    """
    head: Any = _head(model)
    if hasattr(head, "used_weights"):
        weight, bias = head.used_weights()
        return weight, bias.to(weight)
    weight = head.weight.detach()
    return weight, weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach()


@contextmanager
def watched_features(model: nn.Module) -> Iterator[list[Tensor]]:
    """While active, keeps the features (N, D) of each forward pass as the head multiplies them, detached.

    Raises:
        ValueError: the model has no linear layer.
    """
    head, found = _head(model), list[Tensor]()
    used: Callable[[Tensor], Tensor] = getattr(head, "used_features", lambda features: features)
    hook = head.register_forward_pre_hook(lambda _, inputs: found.append(used(inputs[0]).detach()))
    try:
        yield found
    finally:
        hook.remove()


def last_stages(model: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """The last stage of each network, one but in an ensemble, and the stage before that.

    They are of its stages or blocks, or else its last two ReLUs.

    Raises:
        ValueError: it has none of these.
    """
    backbone = getattr(model, "backbone", None)
    networks = list(backbone.members) if isinstance(backbone, JoinedBackbones) else [model]
    last, previous = zip(*map(_last_stages, networks), strict=True)
    return last, previous


def _last_stages(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    for module in model.modules():
        for name in ("stages", "blocks"):
            found = getattr(module, name, None)
            if isinstance(found, nn.Sequential | nn.ModuleList) and len(found) > 1:
                return found[-1], found[-2]
        last, previous = getattr(module, "layer4", None), getattr(module, "layer3", None)
        if isinstance(last, nn.Module) and isinstance(previous, nn.Module):
            return last, previous
    rectified = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    if len(rectified) < 2:
        raise ValueError("model: got no stages, blocks or ReLU layers, wanted a network with two stages")
    return rectified[-1], rectified[-2]


def forward_changed(
    model: nn.Module, images: Tensor, stages: Sequence[nn.Module], change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Logits (N, C) of images, were the output of each of some stages what `change` makes of it."""
    hooks = [stage.register_forward_hook(lambda module, inputs, output: change(output)) for stage in stages]
    try:
        with torch.no_grad():
            logits: Tensor = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return logits


def _head(model: nn.Module) -> nn.Module:
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module) and hasattr(head, "used_weights"):
        return head
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("model: got no linear layer, wanted one that ends in a linear layer")
    return linear[-1]
