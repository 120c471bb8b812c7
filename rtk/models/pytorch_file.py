"""PyTorch's own files, whatever else a trainer has put into them; nothing that is in them is run.

A file is read by torch's restricted unpickler. What else it asks for, such as the `argparse.Namespace` of a
trainer's arguments, becomes an `Inert`; a function of Python's own, or a module that reaches the system, is
no data, and the file is refused.
"""

from __future__ import annotations

import builtins
import pickletools  # nosec B403  # reads the opcodes of a pickle, runs none
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

ZIPPED, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PICKLES = 4  # magic number, protocol, system, content
# Where the weights are, in trainers that say so: those to evaluate before those to train on with.
WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "params_ema",
)
# Where the objects are from that trainers save whole beside the weights, as Lightning does hyper-parameters.
SAVED_WHOLE = ("torch.nn.modules.", "torch.optim.")
DEPTH = 2  # wrappers around wrappers, as {"ema": {"module": ...}}


class Found(NamedTuple):
    """A model's tensors in what a trainer has saved.

    Attributes:
        tensors: by name.
        place: names of the wrappers around them, from the outside.
        beside: names of what else there is, which is ignored.
    """

    tensors: dict[str, Tensor]
    place: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


class Inert:
    """Takes the place of an object of a class that is not looked up: it keeps nothing and does nothing."""

    def __new__(cls, *_: Any) -> Inert:
        """Whatever the object was made from is dropped."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Takes the place of a subclass of `dict`, whose entries follow: a plain one."""

    def __new__(cls, *_: Any) -> dict[Any, Any]:  # type: ignore[misc]
        """A dict without entries."""
        return {}


def is_pytorch(start: bytes) -> bool:
    """Whether a file that starts so, with at least 16 bytes, may be one of `torch.save`."""
    return start.startswith((ZIPPED, LEGACY))


def read_pytorch(path: Path) -> Any:
    """Content of a file of `torch.save`, with `Inert` objects in it.

    Raises:
        Exception: of many types: it is broken, or asks for what is no data.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIPPED)) == ZIPPED
    inert: list[Any] = [
        (InertDict if name.lower().endswith("dict") else Inert, name) for name in _asked_for(path, zipped)
    ]
    with torch.serialization.safe_globals(inert):
        if path.suffix == ".safetensors":  # torch would go by the name
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        # Mapped from the disk where that can be: a page is read when its tensor is.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)


def find_tensors(content: Any) -> Found:
    """The tensors of a model, out of what a trainer has saved.

    Looked for are the names of `WRAPPERS`, in their order; else whatever alone holds nothing but tensors.

    Raises:
        ValueError: there are none, or several that no known name tells apart; says what there is.
    """
    found = _found(content, DEPTH)
    if found is None:
        raise ValueError(f"it holds no mapping of names to tensors, but {_described(content)}")
    return found


def _found(content: Any, depth: int) -> Found | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(name, str) and torch.is_tensor(value) for name, value in content.items()):
        return Found(dict(content))
    inside = {name: _found(value, depth - 1) for name, value in content.items()} if depth else {}
    candidates = {name: found for name, found in inside.items() if found is not None}
    if not candidates:
        return None
    chosen = next((name for name in WRAPPERS if name in candidates), None)
    if chosen is None and len(candidates) > 1:
        names = ", ".join(map(str, candidates))
        raise ValueError(f"it holds tensors in each of {names}, wanted one of them, or in {WRAPPERS[0]}")
    chosen = next(iter(candidates)) if chosen is None else chosen
    tensors, place, beside = candidates[chosen]
    others = tuple(str(name) for name in content if name != chosen)
    return Found(tensors, (str(chosen), *place), (*others, *beside))


def _described(content: Any, most: int = 20) -> str:
    if not isinstance(content, Mapping):
        return f"an object of another kind ({type(content).__name__})"
    other = [str(name) for name, value in content.items() if not torch.is_tensor(value)]
    return f"more than tensors: {', '.join(other[:most])}" if other else "nothing"


def _asked_for(path: Path, zipped: bool) -> set[str]:
    """Names, as `module.name`, that a file asks for and that may become `Inert`."""
    pickles = _zipped_pickle if zipped else _legacy_pickles
    names = {arg for opcode, arg, _ in pickles(path) if opcode.name == "GLOBAL"}
    return {f"{module}.{name}" for module, name in map(_python_3, names) if _is_data(module, name)}


def _zipped_pickle(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == "data.pkl":
                yield from pickletools.genops(archive.read(name))


def _legacy_pickles(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for _ in range(LEGACY_PICKLES):
            yield from pickletools.genops(file)


def _python_3(name: str) -> tuple[str, str]:
    """Module and name of a GLOBAL instruction, where Python 3 has them."""
    module, _, name = name.partition(" ")
    return {"__builtin__": "builtins"}.get(module, module), name


def _is_data(module: str, name: str) -> bool:
    """Whether a name may stand for data: types of Python, layers and optimisers do; torch judges its own."""
    if module == "builtins":
        return isinstance(getattr(builtins, name, None), type)
    if module.startswith(SAVED_WHOLE):
        return True  # never looked up, as any name that becomes `Inert`
    return module.partition(".")[0] not in ("torch", "os", "posix", "nt", "sys", "subprocess")
