"""Packages that are functions too: `rtk.train(recipe)` and `rtk.evaluate(run)` beside what they hold.

Importing `rtk.train.launch` binds the name `train` of `rtk` to the package: a function of that name in
`rtk` would vanish. Therefore the package itself can be called. The call runs the function of its name in
`rtk.api`, which is looked up by name, for these packages lie below it.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A package whose call is the function of its name in `rtk.api`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self._function()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        """What a notebook shows as its arguments."""
        return inspect.signature(self._function())

    def __reduce__(self) -> Any:  # as other modules: by name
        return importlib.import_module, (self.__name__,)

    def _function(self) -> Callable[..., Any]:
        api = importlib.import_module("rtk.api")
        function: Callable[..., Any] = getattr(api, self.__name__.rpartition(".")[2])
        return function


def make_callable(package: str) -> None:
    """Let a package that is being imported be called, as Python's data model allows.

    Args:
        package: its `__name__`.
    """
    sys.modules[package].__class__ = CallableModule
