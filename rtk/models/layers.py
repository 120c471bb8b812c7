"""A backbone as a sequence of layers: to freeze the first ones, or to train them more gently."""

from __future__ import annotations

from typing import Any

from torch import nn


def layer_indices(backbone: Any) -> dict[str, int]:
    """Layer of every parameter of a backbone, by name: 0 the stem, then the blocks, the last norm on top.

    timm's own grouping (`group_matcher`), which rtk's backbones declare in the same form.

    Raises:
        ValueError: where the backbone declares none.
    """
    from timm.models import group_parameters

    if not hasattr(backbone, "group_matcher"):
        raise ValueError(f"{type(backbone).__name__} does not say what its layers are")
    layers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    return layers


def freeze_layers(backbone: nn.Module, count: int) -> None:
    """Take the first `count` layers out of training: 1 is the stem.

    Raises:
        ValueError: naming `model.freeze_layers`, where the backbone has fewer layers.
    """
    if not count:
        return
    layers = layer_indices(backbone)
    if count > max(layers.values()) + 1:
        raise ValueError(f"model.freeze_layers: got {count}, wanted at most {max(layers.values()) + 1}, all")
    for name, parameter in backbone.named_parameters():
        if layers[name] < count:
            parameter.requires_grad_(False)


def learning_rate_scales(model: Any, decay: float, head: float = 1.0) -> dict[str, float]:
    """Factor on the learning rate of every trained parameter of a classifier, by name.

    decay ** (layers above it): the last layer of the backbone has `decay`, the one before it decay ** 2
    (Clark et al. 2020; as in BEiT and MAE). The head has 1, or `head`.
    """
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    of_head = {name: head for name in trained if name.startswith("head.")}
    if decay == 1:
        return dict.fromkeys(trained, 1.0) | of_head
    layers = {f"backbone.{name}": layer for name, layer in layer_indices(model.backbone).items()}
    above = max(layers.values()) + 1
    return {name: decay ** (above - layers.get(name, above)) for name in trained} | of_head


def suits_channels_last(model: nn.Module) -> bool:
    """Whether every strided 1x1 convolution has at least 8 input channels.

    On processors with AVX2 and no more, oneDNN (of PyTorch 2.14) writes beyond its buffers in the weight
    gradient of narrower ones whose images are laid out channels last.
    """
    return not any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < 8
        for layer in model.modules()
    )
