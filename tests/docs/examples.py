"""Loading the examples of the documentation as files of a user's own, and leaving no trace of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rtk.config.objective import ObjectiveConfig
from rtk.config.plugins import add_blocks
from rtk.config.schema import RunConfig
from rtk.objectives import TERMS
from rtk.optim.methods import METHODS

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def load_example(name: str) -> ModuleType:
    """Run a file of `docs/examples`."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def restored_tables() -> Iterator[None]:
    """Context after which terms and methods that were registered in it are gone."""
    tables = (TERMS, METHODS, ObjectiveConfig.model_fields, RunConfig.model_fields)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        add_blocks(ObjectiveConfig, {})
