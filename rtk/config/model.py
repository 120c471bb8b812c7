"""`model`: backbone, head and the weights to start from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rtk.config.sections import Fraction, PositiveFloat, PositiveInt, Section


class LoraConfig(Section):
    """Low-rank adapters on a transformer's linear layers; all other weights of the backbone are frozen."""

    rank: int = Field(0, ge=0, description="rank of the adapters; 0: none")
    alpha: PositiveInt = Field(16, description="the adapters' output is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("qkv", "proj", "fc1", "fc1_g", "fc1_x", "fc2"),
        description="linear layers inside the blocks, by name",
    )


class ModelConfig(Section):
    """Backbone, head, and the weights to start from.

    `resnet18`, `resnet110` and `wrn28_10` have the CIFAR stem; `resnet18_imagenet`, `resnet50`,
    `efficientnet_lite0` and `dinov3_*` are timm's; `timm/NAME` is any other of timm's.
    """

    name: str = Field("resnet18", description="backbone, such as resnet18, wrn28_10, dinov3_l16 or timm/NAME")
    width: PositiveInt | None = Field(
        None, description="channels of the first stage (resnet18, resnet110, wrn28_10); null: as published"
    )
    pool: Literal["token", "avg"] | None = Field(
        None, description="features of a transformer: class token or mean patch; null: token for dinov3"
    )
    head: Literal["linear", "cosine", "abet", "projection"] = Field(
        "linear",
        description="classifier on the features; cosine: SURE's; abet: a cosine over a temperature that is "
        "learnt from the features (AbeT), whose OOD score is `abet`; projection: for objective.palm, which "
        "trains the features by a projection of them, and a linear classifier that does not",
    )
    temperature: PositiveFloat = Field(8.0, description="scale of the cosine head's logits")
    standardise: PositiveFloat | None = Field(
        None,
        description="features of each image are scaled to mean 0 and this standard deviation before a linear "
        "head (ASCOOD: 0.5); null: they are not",
    )
    reject_class: bool = Field(
        False,
        description="an output more than there are classes, for what is none: trained by OpenMix, left out "
        "of all predictions and scores",
    )
    weights: str | None = Field(
        None,
        description="a PyTorch or safetensors file of any trainer (of several sets of weights in it the "
        "plain ones, before their averages), a folder of safetensors, or an rtk run; null: random",
    )
    head_weights: Literal["load", "new"] = Field(
        "load", description="load: the weights hold a fitting head; new: it is drawn at random"
    )
    drop_path: Fraction = Field(
        0.0, description="chance to skip the last block while training; less before it"
    )
    freeze_layers: int = Field(
        0, ge=0, description="layers that are not trained: 1 the stem, then the blocks"
    )
    lora: LoraConfig = Field(default_factory=LoraConfig)
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="per-channel mean, images in [0, 1]"
    )
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (0.5, 0.5, 0.5), description="per-channel standard deviation"
    )
    freeze_batchnorm: bool = Field(False, description="keep BatchNorm in evaluation mode while training")
    batchnorm: Literal["sync", "local"] = Field(
        "sync",
        description="whose images BatchNorm normalises by in training: sync, those of all workers, as one "
        "would; local, each worker its own (so too under sharpness.sync local)",
    )
