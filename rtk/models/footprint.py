"""What a model needs in memory, found by running it on tensors that hold no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy

from rtk.config.schema import ModelConfig
from rtk.models.build import build_model


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


def measure_footprint(
    config: ModelConfig,
    num_classes: int,
    image_size: int,
    images: int,
    autocast: bool = True,
    bf16_weights: bool = False,
) -> Footprint:
    """Build a model without data, whatever its size, and trace a forward pass.

    Args:
        config: the model.
        num_classes: C.
        image_size: side of the images in pixels.
        images: N, images of a forward pass.
        autocast: compute in bf16.
        bf16_weights: keep the weights in bf16 too.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        model = build_model(config, num_classes, image_size).train()
        if bf16_weights:
            model.bfloat16()
    # Fake tensors have shapes, types and a device, but no storage.
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        model.autocast_dtype = torch.bfloat16 if autocast else None
        batch = torch.empty(images, 3, image_size, image_size)
        activations = _saved_bytes(model, batch, torch.empty(images, dtype=torch.int64))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    return Footprint(trained, frozen, activations)


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
