"""Low-rank adapters (LoRA, Hu et al. 2022), by peft: `pip install 'reliability-toolkit[lora]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtk.config.model import LoraConfig


def add_adapters(backbone: Any, config: LoraConfig) -> None:
    """Put adapters beside the linear layers of a transformer's blocks and freeze every other weight of it.

    They start as zero, so that the features are as before.

    Raises:
        ValueError: naming `model.lora`, where peft is not installed or the backbone has no such layers.
    """
    if not config.rank:
        return
    try:
        import peft
    except ImportError:
        raise ValueError("model.lora.rank: needs peft: pip install 'reliability-toolkit[lora]'") from None
    for module in backbone.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True  # otherwise timm goes round the adapter, straight to the weight
    layers = rf"blocks\.\d+\.(.*\.)?({'|'.join(config.targets)})"
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=layers)
    try:
        peft.inject_adapter_in_model(settings, backbone)
    except ValueError:
        raise ValueError(
            f"model.lora.targets: {type(backbone).__name__} has no block with a layer called "
            f"{' or '.join(config.targets)}"
        ) from None
