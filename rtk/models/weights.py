"""Weights into a model, tensor by tensor, under whatever names they come; nothing is left over silently."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from rtk.models.published_names import MAY_BE_MISSING, Reading, read_names
from rtk.models.weights_file import LazyTensor, Weights, WeightsError

LISTED = 5  # names of a kind that a message lists
CONSTANTS_AGREE = 1e-4  # relative: published constants have four digits
Value = TypeVar("Value")
ShapeOf: TypeAlias = Callable[[Tensor], tuple[int, ...]]


def _own_shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def load_weights(
    model: Any,
    weights: Weights,
    origin: str,
    new_head: bool = False,
    writing: Callable[[Tensor], AbstractContextManager[bool]] = lambda _: nullcontext(True),
    shape_of: ShapeOf = _own_shape,
) -> Reading:
    """Copy weights into a classifier, tensor by tensor; returns how their names were read.

    Args:
        model: a `Classifier`.
        weights: by the names of rtk or of any project in `published_names`.
        origin: where they come from, for messages.
        new_head: leave the head as it is.
        writing: context in which a tensor of the model is whole; gives whether this process fills it.
        shape_of: shape of a tensor of the model when it is whole.

    Raises:
        WeightsError: listing every missing, unexpected and wrongly shaped tensor; nothing is loaded then.
    """
    reading = fitting_weights(model, weights, origin, new_head, shape_of)
    found = reading.tensors
    for name, target in model.state_dict(keep_vars=True).items():
        if name in found:
            with torch.no_grad(), writing(target) as here:
                if here:
                    target.copy_(found[name].read())
    return reading


def classes_of(model: Any, weights: Weights) -> int | None:
    """Number of logits of the head that weights have; None where they have none.

    The model's own number of classes does not matter.
    """
    wanted = {name: _own_shape(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    head = read_names(weights, wanted, _head_names(model.backbone)).tensors.get("head.weight")
    return None if head is None else head.shape[0]


def fitting_weights(
    model: Any, weights: Weights, origin: str, new_head: bool = False, shape_of: ShapeOf = _own_shape
) -> Reading:
    """The weights by the model's names, all of which they have; the model may be on torch's `meta` device.

    Raises:
        WeightsError: as `load_weights`.
    """
    wanted = {name: shape_of(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    wanted = _without_head(wanted) if new_head else wanted
    reading = read_names(weights, wanted, _head_names(model.backbone))
    found = _without_head(reading.tensors) if new_head else reading.tensors
    found = _with_resized_positions(model.backbone, found, shape_of)
    _check_fit(wanted, found, f"{origin} does not fit the model (names read as of {reading.owner})")
    _check_constants(model, reading.constants, origin, new_head)
    return replace(reading, tensors=found)


def _without_head(tensors: Mapping[str, Value]) -> dict[str, Value]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def _head_names(backbone: Any) -> tuple[str, ...]:
    """What the backbone's own project calls its classifier: timm says so, rtk's own are as torchvision's."""
    names = getattr(backbone, "default_cfg", {}).get("classifier") or "fc"
    return (names,) if isinstance(names, str) else tuple(names)


def _check_constants(model: Any, found: Weights, origin: str, new_head: bool) -> None:
    """Compare settings that a file holds beside its weights with those of the model.

    Raises:
        WeightsError: naming the key that differs.
    """
    wanted = model.constants()
    for name, tensor in found.items():
        if name == "temperature" and (new_head or name not in wanted):
            continue  # a linear head has been refused already, for its bias is missing
        values = tuple(tensor.read().flatten().tolist())
        if not all(map(partial(math.isclose, rel_tol=CONSTANTS_AGREE), values, wanted[name])):
            raise WeightsError(
                f"model.{name}: got {_numbers(wanted[name])}, "
                f"but {origin} was trained with {_numbers(values)}"
            )


def _numbers(values: Sequence[float]) -> str:
    texts = [f"{value:.6g}" for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _with_resized_positions(
    backbone: Any, weights: dict[str, LazyTensor], shape_of: ShapeOf
) -> dict[str, LazyTensor]:
    """Learned position embeddings interpolated to the grid of the model's image size (RoPE needs none)."""
    name, target = "backbone.pos_embed", getattr(backbone, "pos_embed", None)
    if target is None or name not in weights or weights[name].shape == shape_of(target):
        return weights
    from timm.layers import resample_abs_pos_embed

    prefix = 0 if backbone.no_embed_class else backbone.num_prefix_tokens
    source, grid = weights[name], list(backbone.patch_embed.grid_size)

    def read() -> Tensor:
        return resample_abs_pos_embed(source.read(), new_size=grid, num_prefix_tokens=prefix)

    return weights | {name: LazyTensor(shape_of(target), read)}


def _check_fit(wanted: Mapping[str, tuple[int, ...]], found: Weights, verdict: str) -> None:
    """Compare names and shapes; `verdict` begins the message.

    Raises:
        WeightsError: listing what is missing, unexpected and wrongly shaped.
    """
    missing = [name for name in wanted if name not in found and not MAY_BE_MISSING.search(name)]
    unexpected = [name for name in found if name not in wanted]
    wrong = [
        f"{name} {found[name].shape} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
    lines = [f"{what} ({len(names)}): {_some(names)}" for what, names in parts.items() if names]
    if lines:
        hint = _head_hint(missing, unexpected, wrong)
        raise WeightsError(f"model.weights: {verdict}: {'; '.join(lines)}{hint}")


def _head_hint(missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[str]) -> str:
    """What helps where the heads differ; only linear ones have a bias."""
    hints = []
    if "head.bias" in missing and "head.weight" not in missing:
        hints = ["; model.head=cosine is what the weights are of"]
    if "head.bias" in unexpected:
        hints = ["; model.head=linear is what the weights are of"]
    if any("head." in name for name in [*missing, *unexpected, *wrong]):
        hints.append("; model.head_weights=new draws the head at random")
    return "".join(hints)


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
