"""Modules of shapes alone, for what can be known of a model without its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Drawing them without memory would load torch's compiler: a second.
_DRAWS = {Tensor.normal_, Tensor.uniform_}


class _NoDraws(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        arguments: tuple[Any, ...] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        return arguments[0] if function in _DRAWS else function(*arguments, **(options or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let modules that are built in the body have tensors on torch's `meta` device, with no values."""
    with torch.device("meta"), _NoDraws():
        yield
