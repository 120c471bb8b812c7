"""What a model needs in memory, found by running it on tensors that hold no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from rtk.models.classifier import Classifier


@dataclass(frozen=True)
class Footprint:
    """Sizes of a classifier and of one forward pass through it.

    Attributes:
        trained: parameters that take gradients.
        frozen: parameters that take none.
        activations: bytes that a forward pass keeps for the backward pass (autocast's copies of the weights
            included), beside weights and images.
    """

    trained: int
    frozen: int
    activations: int


def measure_footprint(model: Classifier, image_size: int, images: int, checkpoint: bool = False) -> Footprint:
    """Trace a forward pass of a model that holds no data, whatever its size.

    Args:
        model: on the `meta` device, with `autocast_dtype` set as for training; it is changed.
        image_size: side of the images in pixels.
        images: N, images of the pass.
        checkpoint: activations are kept for one block at a time, and otherwise only where blocks begin.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Fake tensors have shapes, types and a device, but no storage.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.train().to_empty(device="cpu")
        batch = torch.empty(images, 3, image_size, image_size)
        inputs = _block_inputs(model.backbone)
        activations = _saved_bytes(model, batch, torch.empty(images, dtype=torch.int64))
    if checkpoint and inputs:
        activations = sum(inputs) + activations // len(inputs)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    return Footprint(trained, frozen, activations)


def _block_inputs(backbone: Any) -> list[int]:
    """Bytes that enter each block of a transformer, once a pass has gone through it."""
    sizes: list[int] = []

    def note(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(inputs[0].numel() * inputs[0].element_size())

    for block in getattr(backbone, "blocks", []):
        block.register_forward_pre_hook(note)
    return sizes


def _saved_bytes(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, the model's and images' aside."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers(), images)}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor  # held, so that no address comes twice
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        cross_entropy(model(images), labels)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in own)
