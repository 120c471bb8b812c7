"""Weights into a model, tensor by tensor, under whatever names they come; nothing is left over silently."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rtk.models.dinov3_weights import to_timm_names
from rtk.models.weights_file import LISTED, LazyTensor, Weights, WeightsError

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
) -> None:
    """Copy weights into a classifier, tensor by tensor.

    Args:
        model: a `Classifier`.
        weights: by rtk's names (`backbone.`, `head.`), timm's, Meta's or Hugging Face's.
        origin: where they come from, for messages.
        new_head: leave the head as it is.
        writing: context in which a tensor of the model is whole; gives whether this process fills it.
        shape_of: shape of a tensor of the model when it is whole.

    Raises:
        WeightsError: listing every missing, unexpected and wrongly shaped tensor; nothing is loaded then.
    """
    found = fitting_weights(model, weights, origin, new_head, shape_of)
    for name, target in model.state_dict(keep_vars=True).items():
        if name in found:
            with torch.no_grad(), writing(target) as here:
                if here:
                    target.copy_(found[name].read())


def fitting_weights(
    model: Any, weights: Weights, origin: str, new_head: bool = False, shape_of: ShapeOf = _own_shape
) -> dict[str, LazyTensor]:
    """The weights by the model's names, all of which they have; the model may be on torch's `meta` device.

    Raises:
        WeightsError: as `load_weights`.
    """
    state = model.state_dict(keep_vars=True)
    found = renamed_weights(model, weights, set(state), shape_of)
    if new_head:
        state, found = _without_head(state), _without_head(found)
    _check_fit({name: shape_of(tensor) for name, tensor in state.items()}, found, origin)
    return found


def _without_head(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


def renamed_weights(
    model: Any, weights: Weights, targets: set[str], shape_of: ShapeOf
) -> dict[str, LazyTensor]:
    """The same tensors by rtk's names."""
    weights = without_wrapping(weights, targets)
    if any(name.startswith("backbone.") for name in weights):
        return dict(weights)
    wanted = {name.removeprefix("backbone.") for name in targets}
    renamed = to_timm_names(weights, wanted)
    heads = getattr(model.backbone, "default_cfg", {}).get("classifier") or "fc"
    heads = (heads,) if isinstance(heads, str) else heads
    found = {}
    for name, tensor in renamed.items():
        head = next((head for head in heads if name.startswith(f"{head}.")), None)
        found[f"head.{name.removeprefix(f'{head}.')}" if head else f"backbone.{name}"] = tensor
    return _with_resized_positions(model.backbone, found, shape_of)


def without_wrapping(weights: Weights, targets: set[str]) -> dict[str, LazyTensor]:
    """The same tensors without what a wrapper around the model has put before its names.

    `torch.compile` puts `_orig_mod.` before a model's or a layer's; data-parallel wrappers put `module.`,
    and trainers such as Lightning `model.` or any other word, before every name. A word that the model itself
    starts a name with stays. `n_averaged` is a counter of `torch.optim.swa_utils.AveragedModel`.

    Args:
        weights: as a file names them.
        targets: the model's own names.
    """
    found = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    own = {part for name in targets for part in name.removeprefix("backbone.").split(".")[:1]}
    while True:
        words = {name.partition(".")[0] for name in found if name != "n_averaged"}
        if len(words) != 1 or words <= {"backbone", "head", *own}:
            return found
        prefix = f"{words.pop()}."
        if any(not name.startswith(prefix) for name in found if name != "n_averaged"):
            return found
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name != "n_averaged"}


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


def _check_fit(wanted: Mapping[str, tuple[int, ...]], found: Weights, origin: str) -> None:
    """Compare names and shapes.

    Raises:
        WeightsError: listing what is missing, unexpected and wrongly shaped.
    """
    # RoPE's periods follow from the config; Meta's files hold them, timm's do not.
    missing = [name for name in wanted if name not in found and name != "backbone.rope.periods"]
    unexpected = [name for name in found if name not in wanted]
    wrong = [
        f"{name} {found[name].shape} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    parts = {"missing": missing, "unexpected": unexpected, "wrongly shaped": wrong}
    lines = [f"{what} ({len(names)}): {_some(names)}" for what, names in parts.items() if names]
    if lines:
        head = any("head." in name for name in [*missing, *unexpected, *wrong])
        hint = "; model.head_weights=new draws the head at random" if head else ""
        raise WeightsError(f"model.weights: {origin} does not fit the model: {'; '.join(lines)}{hint}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
