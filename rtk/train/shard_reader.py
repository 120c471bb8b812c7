"""Reading a checkpoint's shards: any part of any tensor, whatever ZeRO stage and worker count wrote them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from rtk.runs.checkpoint_faults import check_whole
from rtk.runs.checkpoints import CheckpointError, resolve_checkpoint


class ShardReader:
    """Random access to the fragments of a checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = [_open(path) for path in sorted(folder.glob("shard-*.safetensors"))]
        if not self.files:
            raise CheckpointError(f"{folder}: no shard-*.safetensors there")
        self.index: dict[tuple[str, str], list[tuple[int, int, int, str]]] = defaultdict(list)
        for number, file in enumerate(self.files):
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                (kind, name, offset), numel = _fragment(folder, key, file.get_slice(key).get_shape())
                self.index[kind, name].append((int(offset), numel, number, key))

    def sizes(self, kind: str) -> dict[str, int]:
        """Number of saved elements of every parameter."""
        parts = {name: runs for (k, name), runs in self.index.items() if k == kind}
        return {name: sum(numel for _, numel, _, _ in runs) for name, runs in parts.items()}

    def read(self, kind: str, name: str, start: int, numel: int) -> Tensor:
        """Elements `start : start + numel` of a parameter's tensor of the given kind, flat, fp32."""
        out = torch.empty(numel)
        found = 0
        for offset, length, number, key in sorted(self.index.get((kind, name), [])):
            low, high = max(start, offset), min(start + numel, offset + length)
            if low < high and low == start + found:  # elements that are there twice leave others out
                part = self.files[number].get_slice(key)[low - offset : high - offset]
                out[low - start : high - start] = part
                found += high - low
        if found != numel:
            raise CheckpointError(
                f"{self.folder}: {kind} of {name!r} is incomplete: {found} of {numel} elements"
            )
        return out


def _fragment(folder: Path, key: str, shape: Sequence[int]) -> tuple[tuple[str, str, str], int]:
    """Kind, name and offset of a fragment, and its length: what stands in a file is not believed."""
    parts = key.split("|")
    if len(parts) != 3 or not (parts[2].isascii() and parts[2].isdigit()) or len(shape) != 1:
        raise CheckpointError(f"{folder}: damaged: {key[:60]!r} is no fragment of a tensor that rtk wrote")
    return (parts[0], parts[1], parts[2]), shape[0]


def _common(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None


def _of_shape(folder: Path, name: str, value: Tensor, shape: torch.Size) -> Tensor:
    if value.numel() != shape.numel():
        raise CheckpointError(f"{folder}: {name!r} has {value.numel()} elements, wanted {shape.numel()}")
    return value.view(shape)


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from error


def check_finite(folder: Path, kind: str, name: str, values: Tensor) -> None:
    """Refuse weights that are no numbers, which training would only spread.

    Raises:
        CheckpointError: naming the parameter.
    """
    if not torch.isfinite(values).all():
        count = int((~torch.isfinite(values)).sum())
        raise CheckpointError(f"{folder}: {kind} of {name!r} is not finite in {count} elements")


def load_saved_weights(folder: Path, model: nn.Module, averaged: bool = True) -> None:
    """Load a checkpoint's weights into an unsharded model, for evaluation and export.

    The model is the one full copy: each parameter is read into its place from the shards of whatever
    ZeRO stage wrote them, with nothing gathered over ranks.

    Args:
        folder: checkpoint folder.
        model: model of the run's config, on the CPU.
        averaged: take the averaged weights and their BatchNorm statistics where the run kept any.
    """
    read = weights_reader(folder, averaged)
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            value.copy_(read(name, value.shape))


def weights_reader(folder: Path, averaged: bool = True) -> Callable[[str, torch.Size], Tensor]:
    """A function that reads one tensor of a checkpoint's model, given its name and shape.

    Args:
        folder: checkpoint folder.
        averaged: read the averaged weights and buffers where the run kept any.

    Raises:
        CheckpointError: it is damaged or incomplete.
    """
    found = resolve_checkpoint(folder)
    check_whole(found)
    reader = ShardReader(found)
    common = _common(reader.folder / "common.safetensors")
    use_average = averaged and any(kind == "average" for kind, _ in reader.index)

    def read(name: str, shape: torch.Size) -> Tensor:
        buffers = ("average", "model") if use_average else ("model",)
        for kind in buffers:
            if f"{kind}|{name}" in common:
                return _of_shape(found, name, common[f"{kind}|{name}"], shape)
        trained = "average" if use_average else "weight"
        kind = "frozen" if ("frozen", name) in reader.index else trained
        values = reader.read(kind, name, 0, shape.numel())
        check_finite(found, kind, name, values)
        return values.view(shape)

    return read
