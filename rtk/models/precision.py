"""Whether a network runs under bfloat16 autocast; `train.precision` decides, or leaves it open."""

from __future__ import annotations

from torch import nn

from rtk.runtime.environment import supports_bf16


def runs_in_bf16(precision: str, model: nn.Module, device: str) -> bool:
    """Whether a network runs under bf16 autocast.

    Args:
        precision: `train.precision`: `auto`, `fp32`, `bf16` or `bf16_weights`.
        model: the network.
        device: `cpu` or `cuda`.
    """
    return precision.startswith("bf16") or (precision == "auto" and is_faster_in_bf16(model, device))


def is_faster_in_bf16(model: nn.Module, device: str) -> bool:
    """Whether bf16 autocast pays: its products run in hardware, and the network is made of products.

    On CPUs oneDNN has fast bf16 kernels for dense convolutions and matrix products; for a depthwise
    convolution it has none, and the casts around that cost more than is gained beside it
    (`benchmarks/precision.py`).
    """
    return supports_bf16(device) and not (device == "cpu" and has_depthwise(model))


def has_depthwise(model: nn.Module) -> bool:
    """Whether convolutions of the model look at one channel each."""
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return any(layer.groups == layer.in_channels > 1 for layer in layers)
