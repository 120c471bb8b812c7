"""Memory that nobody has written to, as a long-lived process finds it: full of what was there before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

LEFT = 1000.0  # neither a plausible weight, nor NaN, which would be found by itself


@contextmanager
def used_memory() -> Iterator[None]:
    """Let what torch allocates and does not fill hold numbers: fresh memory is zero, and hides a reader."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, _filled(getattr(owner, name)))
        yield


def _filled(allocate: Any) -> Any:
    @torch.no_grad()
    def filled(*arguments: Any, **options: Any) -> torch.Tensor:
        tensor: torch.Tensor = allocate(*arguments, **options)
        return tensor.fill_(LEFT) if tensor.is_floating_point() else tensor

    return filled
