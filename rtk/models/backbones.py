"""Backbones by name: rtk's own for 32-pixel images, DINOv3 and any other of timm's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from rtk.models.resnet import ResNet
from rtk.models.wide_resnet import WideResNet

if TYPE_CHECKING:
    from rtk.config.model import ModelConfig

TIMM = "timm/"
# Name: what builds it from its width, and the published width.
CIFAR_BACKBONES: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "resnet18": (lambda width: ResNet((2, 2, 2, 2), width), 64),
    "resnet110": (lambda width: ResNet((18, 18, 18), width), 16),
    "wrn28_10": (lambda width: WideResNet(28, width), 160),
}
TIMM_NAMES = {
    "resnet18_imagenet": "resnet18",
    "resnet50": "resnet50",
    "dinov3_s16": "vit_small_patch16_dinov3",
    "dinov3_b16": "vit_base_patch16_dinov3",
    "dinov3_l16": "vit_large_patch16_dinov3",
    "dinov3_h16plus": "vit_huge_plus_patch16_dinov3",
    "dinov3_7b16": "vit_7b_patch16_dinov3",
}


def build_backbone(config: ModelConfig, image_size: int) -> tuple[nn.Module, int]:
    """The backbone of a config with random weights, and the size of its feature vector.

    Args:
        config: its name, width, pooling and drop path.
        image_size: side of the images in pixels.

    Raises:
        ValueError: naming the key, where there is no such backbone or it has no such option.
    """
    check_backbone(config.name)
    if config.name in CIFAR_BACKBONES:
        for key in ("pool", "drop_path"):
            if getattr(config, key):
                raise ValueError(f"model.{key}: got {getattr(config, key)!r}, {config.name} has none")
        build, width = CIFAR_BACKBONES[config.name]
        backbone: Any = build(config.width or width)
        return backbone, backbone.num_features
    return _build_timm(config, timm_name(config.name), image_size)


def timm_name(name: str) -> str:
    """The name that timm has for a backbone of `model.name`."""
    return TIMM_NAMES.get(name) or name.removeprefix(TIMM)


def is_dinov3(name: str) -> bool:
    """Whether `model.name` is one of Meta's DINOv3 vision transformers."""
    return "dinov3" in name


def _build_timm(config: ModelConfig, name: str, image_size: int) -> tuple[nn.Module, int]:
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if config.width:
        raise ValueError(f"model.width: got {config.width}, timm/{name} is built as published, wanted null")
    if timm.get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = image_size
    # Meta's features, and SURE+'s head, are on the class token; timm would average the patches.
    pool = config.pool or ("token" if is_dinov3(name) else None)
    options |= {"global_pool": pool} if pool else {}
    options |= {"drop_path_rate": config.drop_path} if config.drop_path else {}
    try:
        backbone = timm.create_model(name, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"model: timm cannot build {name!r} with {options}: {error}") from error
    _check_size(backbone, image_size)
    if is_dinov3(name):
        keep_rope_periods(backbone)
    return backbone, backbone.num_features


def keep_rope_periods(backbone: Any) -> None:
    """Make RoPE's periods state: Meta's files hold them in bfloat16, and its features come from those."""
    backbone.rope.register_buffer("periods", backbone.rope.periods, persistent=True)


def _check_size(backbone: Any, image_size: int) -> None:
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else patch[0]
    if image_size % patch:
        raise ValueError(f"data.image_size: got {image_size}, wanted a multiple of the patch size {patch}")


def check_backbone(name: str) -> None:
    """Check that there is such a backbone.

    Raises:
        ValueError: naming `model.name`, with names that are near.
    """
    if name in CIFAR_BACKBONES or name in TIMM_NAMES:
        return
    if not name.startswith(TIMM):
        own = ", ".join([*CIFAR_BACKBONES, *TIMM_NAMES])
        raise ValueError(f"model.name: got {name!r}, wanted one of {own}, or timm/NAME")
    import timm  # 4 s: only where it is asked for

    wanted = name.removeprefix(TIMM)
    if not timm.is_model(wanted):
        near = timm.list_models(f"*{wanted.split('_')[0]}*")[:5]
        raise ValueError(f"model.name: timm has no model {wanted!r}; some that it has: {', '.join(near)}")
