"""The methods that keep something of every weight between steps, a row each.

A new one is a file like `averaging.py`, its block in `rtk.config`, and a place in `METHODS`. A user's own
file calls `register`, with the block in the row.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from rtk.config.plugin_files import note_row
from rtk.config.plugins import add_blocks
from rtk.config.schema import RunConfig
from rtk.optim.averaging import AVERAGING
from rtk.optim.method import MethodRow, MethodSetup
from rtk.optim.sharpness_row import SHARPNESS

if TYPE_CHECKING:
    from rtk.optim.method import Method

METHODS: dict[str, MethodRow] = {row.name: row for row in (SHARPNESS, AVERAGING)}


def register(row: MethodRow) -> MethodRow:
    """Add a method, block NAME of every config from now on; a file that is loaded again replaces its own.

    It acts before those that are there: the average takes in the weights that all others leave.

    Raises:
        ValueError: where the row has no block, or its name or a kind is taken.
    """
    if row.block is None:
        raise ValueError(f"method {row.name!r}: got no block, wanted the class of its block in the config")
    file = inspect.getfile(row.block)
    theirs = METHODS.get(row.name)
    again = theirs is not None and theirs.block is not None and inspect.getfile(theirs.block) == file
    if not again and row.name in RunConfig.model_fields:
        raise ValueError(f"{file}: method {row.name!r}: the config has this key already, wanted another name")
    others = {kind for other in METHODS.values() if other.name != row.name for kind in other.kinds}
    taken = sorted(others & row.kinds.keys())
    if taken:
        raise ValueError(f"{file}: method {row.name!r}: kind {taken[0]!r} exists already, wanted another")
    rest = {name: other for name, other in METHODS.items() if name != row.name}
    METHODS.clear()
    METHODS.update({row.name: row} | rest)
    add_blocks(RunConfig, {row.name: row.block})
    note_row("method", row.name)
    return row


def build_methods(config: RunConfig, setup: MethodSetup) -> dict[str, Method]:
    """The methods that are on in a config, by name, in the order in which they act."""
    built = {name: row.build(config, setup) for name, row in METHODS.items()}
    return {name: method for name, method in built.items() if method is not None}


def kept_bytes(config: RunConfig) -> int:
    """Bytes that the methods of a config keep of an owned weight between steps."""
    return sum(row.bytes_per_weight(config) for row in METHODS.values())


def first_pass_bytes(config: RunConfig) -> int:
    """Bytes that they keep of a weight while the first pass is taken; 0 where it is at the weights."""
    return sum(row.first_pass_bytes(config) for row in METHODS.values())


def second_pass_bytes(config: RunConfig) -> int:
    """Bytes that they keep of a weight while a second pass is taken; 0 where none is."""
    return sum(row.second_pass_bytes(config) for row in METHODS.values())
