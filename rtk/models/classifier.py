"""From a model config to a classifier: input normalisation, backbone, head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtk.models.backbones import build_backbone
from rtk.models.batchnorm import batchnorm_layers
from rtk.models.heads import AbetHead, CosineHead, Head, LinearHead, ProjectionHead, SingleHead
from rtk.models.layers import freeze_layers
from rtk.models.lora import add_adapters

if TYPE_CHECKING:
    from rtk.config.model import ModelConfig


class Classifier(nn.Module):
    """Images in [0, 1] to logits; normalisation is the first layer, so perturbations act on raw pixels.

    Args:
        backbone: module from normalised images (N, 3, H, W) to features (N, D).
        head: module from features (N, D) to logits (N, C).
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation of images in [0, 1].
        freeze_batchnorm: keep BatchNorm layers in evaluation mode while training.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: Head,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        freeze_batchnorm: bool = False,
    ) -> None:
        super().__init__()
        # Constants of the config, not state: a checkpoint must not be able to change them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._normalisation = {"mean": mean, "std": std}
        self.backbone = backbone
        self.head = head
        self.freeze_batchnorm = freeze_batchnorm
        self.autocast_dtype: torch.dtype | None = None
        # Of the activations only: DeepSpeed flattens the weights, which must be contiguous for that.
        self.memory_format = torch.contiguous_format

    def constants(self) -> dict[str, tuple[float, ...]]:
        """Settings that weights were trained with and are no weights themselves, by key below `model`."""
        own = {"temperature": (self.head.temperature,)} if isinstance(self.head, CosineHead) else {}
        return {**self._normalisation, **own}

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> logits (N, C), at least float32."""
        features = self._features(images)
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) in [0, 1] -> logits (N, C) and the features (N, D) behind them."""
        features = self._features(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.head(features), self.head.used_features(features)

    def _features(self, images: Tensor) -> Tensor:
        """The backbone's features (N, D), at least float32."""
        enabled = self.autocast_dtype is not None
        with torch.autocast(images.device.type, self.autocast_dtype or torch.bfloat16, enabled=enabled):
            # One pass over the images: x / std - mean / std.
            images = images.contiguous(memory_format=self.memory_format)
            features = self.backbone(torch.addcmul(-self.mean / self.std, images, 1 / self.std))
        # In bf16 a hundred images would share a logit, and rankings by confidence would be full of ties.
        return features.to(torch.promote_types(next(self.head.parameters()).dtype, torch.float32))

    def train(self, mode: bool = True) -> Classifier:
        """Set training mode; frozen BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        if mode and self.freeze_batchnorm:
            for layer in batchnorm_layers(self):
                layer.eval()
        return self


def build_model(config: ModelConfig, num_classes: int, image_size: int = 32) -> Classifier:
    """Build the classifier that a config describes, with random weights from torch's generator.

    Args:
        config: backbone and head.
        num_classes: C, number of logits; while it trains, one more with `reject_class`.
        image_size: side of the images in pixels, for backbones that are built for one size.

    Raises:
        ValueError: naming the key where there is no such backbone, or it has no such option.
    """
    backbone, features = build_backbone(config, image_size)
    freeze_layers(backbone, config.freeze_layers)
    head: SingleHead = LinearHead(features, num_classes, config.reject_class, config.standardise)
    if config.head == "cosine":
        head = CosineHead(features, num_classes, config.temperature, config.reject_class)
    if config.head == "projection":
        head = ProjectionHead(features, num_classes, config.reject_class)
    if config.head == "abet":
        head = AbetHead(features, num_classes, config.reject_class)
    add_adapters(backbone, config.lora)
    return Classifier(backbone, head, config.mean, config.std, config.freeze_batchnorm)


def concatenates_views(setting: str | bool, model: nn.Module) -> bool:
    """Whether all views go through a model in one forward pass.

    Raises:
        ValueError: naming `train.concatenate_views`, where it is forced on a model with BatchNorm.
    """
    mixes = any(layer.training for layer in batchnorm_layers(model))
    if setting is True and mixes:
        raise ValueError(
            "train.concatenate_views: got true for a model with BatchNorm, whose statistics would mix views"
        )
    return not mixes if setting == "auto" else bool(setting)
