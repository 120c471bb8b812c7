"""DINOv3's tensors under Meta's and Hugging Face's names, as timm names and cuts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from rtk.models.weights_file import LazyTensor, Weights, WeightsError

# Only in pre-training: masked patches, the norm of local crops; which key biases are zero goes with the bias.
META_UNUSED = re.compile(r"^mask_token$|^local_cls_norm\.|\.bias_mask$")
META_NAMES = {
    "storage_tokens": "reg_token",
    "rope_embed.": "rope.",
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}
HUGGING_FACE_NAMES = {
    "embeddings.cls_": "cls_",
    "embeddings.register_tokens": "reg_token",
    "embeddings.patch_embeddings.": "patch_embed.proj.",
    ".attention.o_proj.": ".attn.proj.",
    ".attention.": ".attn.",
    ".layer_scale1.lambda1": ".gamma_1",
    ".layer_scale2.lambda1": ".gamma_2",
    ".mlp.down_proj.": ".mlp.fc2.",
}


def from_meta(weights: Weights, wanted: Collection[str]) -> dict[str, LazyTensor]:
    """DINOv3's tensors under Meta's names, by timm's.

    Args:
        weights: by Meta's names.
        wanted: the model's own names, which say whether its attention has biases.
    """
    found: dict[str, LazyTensor] = {}
    for name, tensor in weights.items():
        if META_UNUSED.search(name):
            continue
        if name.endswith(".qkv.bias"):
            mask = weights.get(f"{name}_mask")
            found |= _attention_biases(name.removesuffix("qkv.bias"), _masked(tensor, mask), wanted)
        else:
            found[_replace(name, META_NAMES)] = tensor
    return found


def from_hugging_face(weights: Weights, wanted: Collection[str]) -> dict[str, LazyTensor]:
    """DINOv3's tensors under Hugging Face's names, by timm's; arguments as of `from_meta`."""
    short = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    names = {**HUGGING_FACE_NAMES, ".mlp.up_proj.": ".mlp.fc1."}
    if any(".mlp.gate_proj." in name for name in short):
        names |= {".mlp.gate_proj.": ".mlp.fc1_g.", ".mlp.up_proj.": ".mlp.fc1_x."}
    found = {}
    for name, tensor in short.items():
        block = re.sub(r"^layer\.", "blocks.", _replace(name, names))
        if name.endswith("mask_token") or re.search(r"\.[kv]_proj\.|\.q_proj\.bias$", name):
            continue  # with the queries
        if name.endswith(".q_proj.weight"):
            parts = [short[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            found[block.replace("q_proj", "qkv")] = _joined(parts)
            if (bias := name.replace("weight", "bias")) in short:
                values = [short.get(bias.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
                found |= _attention_biases(block.removesuffix("q_proj.weight"), _joined(values), wanted)
        else:
            found[block] = tensor
    return found


def _replace(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def _joined(parts: Sequence[LazyTensor | None]) -> LazyTensor:
    """Tensors of one shape one below the other; zeros where one is not there (keys have no bias)."""
    shape = next(part.shape for part in parts if part is not None)

    def read() -> Tensor:
        return torch.cat([torch.zeros(shape) if part is None else part.read() for part in parts])

    return LazyTensor((len(parts) * shape[0], *shape[1:]), read)


def _masked(bias: LazyTensor, mask: LazyTensor | None) -> LazyTensor:
    # A masked element may hold anything, NaN included.
    def read() -> Tensor:
        return bias.read() if mask is None else torch.where(mask.read() == 0, 0.0, bias.read())

    return LazyTensor(bias.shape, read)


def _attention_biases(prefix: str, bias: LazyTensor, wanted: Collection[str]) -> dict[str, LazyTensor]:
    """Biases of queries and values, (D,) each, out of (3 D,); none where the model has none and these are 0.

    Raises:
        WeightsError: where the keys have a bias, for which there is no place.
    """
    if not any(name.endswith(".q_bias") for name in wanted) and not bias.read().any():
        return {}  # Meta's distilled models were trained to biases of zero, which timm leaves out
    size = bias.shape[0] // 3
    if bias.read()[size : 2 * size].any():
        raise WeightsError(f"model.weights: {prefix}qkv.bias: wanted keys without bias")

    def part(start: int) -> Callable[[], Tensor]:
        return lambda: bias.read()[start : start + size]

    return {
        f"{prefix}q_bias": LazyTensor((size,), part(0)),
        f"{prefix}v_bias": LazyTensor((size,), part(2 * size)),
    }
