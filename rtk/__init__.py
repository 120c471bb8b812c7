"""rtk trains image classifiers that know when they are wrong, and proves it.

`rtk.train`, `rtk.evaluate`, `rtk.ensemble`, `rtk.compare` and `rtk.load_model` do what the commands do (see
`rtk.api`). They are imported when they are first used, so that `import rtk` takes no time.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "ensemble", "evaluate", "load_model", "train"]


def __getattr__(name: str) -> Any:
    if name in ("train", "evaluate"):  # packages that can be called: `rtk.runtime.callable_module`
        return import_module(f"rtk.{name}")
    if name in __all__:
        return getattr(import_module("rtk.api"), name)
    raise AttributeError(f"module 'rtk' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
