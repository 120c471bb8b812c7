"""Files of weights: tensors by name, read one at a time and never unpickled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from rtk.models.pytorch_file import find_tensors, is_pytorch, read_pytorch

LONGEST_HEADER = 2**27  # bytes: safetensors' own limit is 100 MB
PACKAGED = "weights.safetensors"  # beside the fitted scores, in what `rtk export` writes


class WeightsError(ValueError):
    """Weights are missing, unreadable or do not fit the model; the message lists what differs."""


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a file: its shape, and how to read it."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


Weights = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds.

    Attributes:
        tensors: by the names they have there.
        place: where they are in it, such as `state_dict`; empty where it holds nothing else.
        beside: names of what else there is, which is ignored.
    """

    tensors: dict[str, LazyTensor]
    place: str = ""
    beside: tuple[str, ...] = ()


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """Tensors of a file or folder by the names they have there, as `read_weights`."""
    return read_weights(path).tensors


def read_weights(path: Path) -> WeightsFile:
    """Tensors of a safetensors file, of a folder of them, or of a PyTorch file.

    What a file is, its first bytes say, whatever it is called.

    Raises:
        WeightsError: where there is no such file, it is of another kind, or it holds no model's tensors.
    """
    files = [path / PACKAGED] if (path / PACKAGED).is_file() else sorted(path.glob("*.safetensors"))
    files = files if path.is_dir() else [path]
    if not files or not path.exists():
        raise WeightsError(
            f"model.weights: got {str(path)!r}, wanted a PyTorch (.pth, .pt, .ckpt, .pth.tar, .bin) or "
            "safetensors file, a folder with safetensors files, or an rtk run"
        )
    opened = [_open_file(file) for file in files]
    tensors = {name: tensor for one in opened for name, tensor in one.tensors.items()}
    return replace(opened[0], tensors=tensors)


def _open_file(path: Path) -> WeightsFile:
    if not path.is_file():  # a pipe would be waited for
        raise WeightsError(f"model.weights: {path} is no file")
    with path.open("rb") as file:
        start = file.read(16)
    if is_pytorch(start):
        return _open_pytorch(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER:
        return WeightsFile(dict(_open_safetensors(path)))
    raise WeightsError(
        f"model.weights: {path} is neither a PyTorch nor a safetensors file: it starts with {start!r}"
    )


def _open_safetensors(path: Path) -> Iterator[tuple[str, LazyTensor]]:
    try:
        file = safe_open(path, "pt")
    except Exception as error:  # safetensors raises a class of its own for every defect
        raise WeightsError(f"model.weights: {path} cannot be read ({error})") from None
    for name in file.keys():  # noqa: SIM118 (not a mapping)
        shape = tuple(file.get_slice(name).get_shape())
        yield name, LazyTensor(shape, partial(file.get_tensor, name))


def _open_pytorch(path: Path) -> WeightsFile:
    try:
        content = read_pytorch(path)
    except Exception as error:  # a broken pickle raises nearly any type
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"model.weights: {path} is no plain file of tensors ({reason})") from None
    try:
        tensors, place, beside = find_tensors(content)
    except ValueError as error:
        raise WeightsError(f"model.weights: {path}: {error}") from None
    lazy = {
        name: LazyTensor(tuple(value.shape), partial(tensors.__getitem__, name))
        for name, value in tensors.items()
    }
    return WeightsFile(lazy, ".".join(place), beside)
