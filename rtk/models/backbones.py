"""Backbones by name: rtk's own for 32-pixel images, DINOv3 and any other of timm's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from rtk.config.plugin_files import add_row
from rtk.models.resnet import ResNet
from rtk.models.wide_resnet import WideResNet
from rtk.runtime.garbage import importing

if TYPE_CHECKING:
    from rtk.config.model import ModelConfig

TIMM = "timm/"


@dataclass(frozen=True)
class Backbone:
    """A backbone that `model.name` can say.

    Attributes:
        name: key in `BACKBONES`.
        build: from a width to a module, images (N, 3, H, W) -> features (N, D), with D as its `num_features`.
        width: published, where `model.width` is null.
        timm: timm's name for it, in place of the two above.
    """

    name: str
    build: Callable[[int], nn.Module] | None = None
    width: int = 0
    timm: str = ""


_ROWS = (
    Backbone("resnet18", lambda width: ResNet((2, 2, 2, 2), width), 64),
    Backbone("resnet110", lambda width: ResNet((18, 18, 18), width), 16),
    Backbone("wrn28_10", lambda width: WideResNet(28, width), 160),
    Backbone("resnet18_imagenet", timm="resnet18"),
    Backbone("resnet50", timm="resnet50"),
    Backbone("efficientnet_lite0", timm="tf_efficientnet_lite0"),
    Backbone("dinov3_s16", timm="vit_small_patch16_dinov3"),
    Backbone("dinov3_b16", timm="vit_base_patch16_dinov3"),
    Backbone("dinov3_l16", timm="vit_large_patch16_dinov3"),
    Backbone("dinov3_h16plus", timm="vit_huge_plus_patch16_dinov3"),
    Backbone("dinov3_7b16", timm="vit_7b_patch16_dinov3"),
)
BACKBONES: dict[str, Backbone] = {row.name: row for row in _ROWS}


def register(backbone: Backbone) -> None:
    """Add a backbone of a user's file.

    Raises:
        ValueError: the name is taken, or nothing says how it is built.
    """
    if backbone.build is None or backbone.width < 1 or backbone.name.startswith(TIMM):
        raise ValueError(f"backbone {backbone.name!r}: wanted a plain name, build and a width above 0")
    add_row(BACKBONES, "backbone", backbone.name, backbone)


def build_backbone(config: ModelConfig, image_size: int) -> tuple[nn.Module, int]:
    """The backbone of a config with random weights, and the size of its feature vector.

    Args:
        config: its name, width, pooling and drop path.
        image_size: side of the images in pixels.

    Raises:
        ValueError: naming the key, where there is no such backbone or it has no such option.
    """
    check_backbone(config.name)
    row = BACKBONES.get(config.name)
    if row is None or row.build is None:
        return _build_timm(config, timm_name(config.name), image_size)
    for key in ("pool", "drop_path"):
        if getattr(config, key):
            raise ValueError(f"model.{key}: got {getattr(config, key)!r}, {config.name} has none")
    backbone: Any = row.build(config.width or row.width)
    if not isinstance(getattr(backbone, "num_features", None), int):
        raise ValueError(
            f"model.name: {config.name} builds no module with num_features, the size of its features"
        )
    return backbone, backbone.num_features


def is_of_timm(name: str) -> bool:
    """Whether a backbone of `model.name` is built by timm."""
    return name.startswith(TIMM) or (name in BACKBONES and bool(BACKBONES[name].timm))


def timm_name(name: str) -> str:
    """The name that timm has for a backbone of `model.name`."""
    return BACKBONES[name].timm if name in BACKBONES else name.removeprefix(TIMM)


def is_dinov3(name: str) -> bool:
    """Whether `model.name` is one of Meta's DINOv3 vision transformers."""
    return "dinov3" in name


def _build_timm(config: ModelConfig, name: str, image_size: int) -> tuple[nn.Module, int]:
    with importing():
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
    # Some, such as MobileNetV3 and VGG, have a layer between the pooled features and the classifier.
    return backbone, getattr(backbone, "head_hidden_size", None) or backbone.num_features


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
    if name in BACKBONES:
        return
    if not name.startswith(TIMM):
        raise ValueError(f"model.name: got {name!r}, wanted one of {', '.join(BACKBONES)}, or timm/NAME")
    with importing():
        import timm  # 1 s: only where it is asked for

    wanted = name.removeprefix(TIMM)
    if not timm.is_model(wanted):
        near = timm.list_models(f"*{wanted.split('_')[0]}*")[:5]
        raise ValueError(f"model.name: timm has no model {wanted!r}; some that it has: {', '.join(near)}")
