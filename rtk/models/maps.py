"""The one way to a model's feature maps: `forward_maps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.overrides import TorchFunctionMode

# What a map becomes as soon as it is there, so that maps need not be kept.
Reduce = Callable[[Tensor], Tensor]

# Calls whose results are maps, be they made by modules or as functions.
MAPPED = {torch.conv2d, relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def forward_maps(
    model: nn.Module, images: Tensor, reduce: Reduce = Tensor.clone
) -> tuple[Tensor, list[Tensor]]:
    """Logits (N, C), and for every map in the order of execution what `reduce` makes of it.

    Maps are the outputs of every convolution and every ReLU, as OpenOOD takes them, or, in a vision
    transformer, of every block.

    Args:
        model: from images to logits.
        images: (N, 3, H, W) in [0, 1].
        reduce: from a map (N, C_l, pixels...) to a tensor, called while the map exists: later layers may
            overwrite it in place. Tokens (N, T, C_l) of a transformer come as (N, C_l, T).

    Raises:
        ValueError: the model has no maps.
    """
    blocks = _transformer_blocks(model)
    found: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, tokens: found.append(reduce(tokens.mT)))
        for block in blocks
    ]
    try:
        with _Collect(found, reduce, frozenset() if blocks else MAPPED):
            logits: Tensor = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ValueError("model: got no convolution, ReLU or transformer block, wanted one with feature maps")
    return logits, found


class _Collect(TorchFunctionMode):
    """While active, keeps what `reduce` makes of the results of some functions."""

    def __init__(self, found: list[Tensor], reduce: Reduce, functions: frozenset[Any] | set[Any]) -> None:
        super().__init__()
        self.found, self.reduce, self.functions = found, reduce, functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self.functions:
            self.found.append(self.reduce(result))
        return result


def _transformer_blocks(model: nn.Module) -> list[nn.Module]:
    """Blocks of a transformer, and of all of them in an ensemble; empty where there is none."""
    found: list[nn.Module] = []
    for module in model.modules():
        blocks = getattr(module, "blocks", None)
        if hasattr(module, "patch_embed") and isinstance(blocks, nn.Sequential | nn.ModuleList):
            found += blocks
    return found
