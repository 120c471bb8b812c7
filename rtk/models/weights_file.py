"""Files of weights: tensors by name, read one at a time and never unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

PICKLED = (".pth", ".pt", ".bin")
LISTED = 20


class WeightsError(ValueError):
    """Weights are missing, unreadable or do not fit the model; the message lists what differs."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Weights = Mapping[str, LazyTensor]


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """Tensors of a safetensors file, of a folder of them, or of a PyTorch file, by the names they have there.

    Raises:
        WeightsError: where there is no such file, it is of another kind, or it holds more than tensors.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files or not path.exists():
        raise WeightsError(
            f"model.weights: got {str(path)!r}, wanted a .pth or .safetensors file, "
            "a folder with safetensors files, or an rtk run"
        )
    if files[0].suffix in PICKLED:
        return _open_pytorch(path)
    return {name: tensor for file in files for name, tensor in _open_safetensors(file)}


def _open_safetensors(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        file = safe_open(path, "pt")
    except Exception as error:  # safetensors raises a class of its own for every defect
        raise WeightsError(f"model.weights: {path} cannot be read ({error})") from None
    for name in file.keys():  # noqa: SIM118 (not a mapping)
        shape = tuple(file.get_slice(name).get_shape())
        yield name, LazyTensor(shape, partial(file.get_tensor, name))


def _open_pytorch(path: Path) -> dict[str, LazyTensor]:
    try:
        # Mapped from the disk: a page is read when its tensor is.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"model.weights: {path} is no plain file of tensors ({reason})") from None
    content = next((content[key] for key in ("state_dict", "model") if key in content), content)
    other = [name for name, value in content.items() if not torch.is_tensor(value)]
    if other:
        raise WeightsError(f"model.weights: {path} holds more than tensors: {', '.join(other[:LISTED])}")
    return {
        name: LazyTensor(tuple(value.shape), partial(content.get, name)) for name, value in content.items()
    }
