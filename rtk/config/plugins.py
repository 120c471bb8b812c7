"""Blocks that other rooms add to the schema: those of the loss terms, rtk's own and a user's.

A term's block stands beside its loss, in `rtk.objectives`, which is above this room and imports it. So the
schema cannot import the blocks; it loads the modules that register them by name, as pytest does with its own
plug-ins. It happens when `rtk.config` is imported: no config can be built, walked or unpickled without them.
These modules import torch inside functions only, for a config is read in a fraction of the time that takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from pydantic.fields import FieldInfo

from rtk.config.schema import RunConfig
from rtk.config.sections import Section

BUILT_IN = ("rtk.objectives.table",)


def load_built_in() -> None:
    """Load what registers rtk's own blocks."""
    for name in BUILT_IN:
        import_module(name)


def add_blocks(section: type[Section], blocks: Mapping[str, type[Section]]) -> None:
    """Give a section of the config more blocks, each with the defaults of its class.

    Args:
        section: `RunConfig`, or the class of one of its sections.
        blocks: classes by key; one that is there already is replaced.
    """
    for name, block in blocks.items():
        section.model_fields[name] = FieldInfo(annotation=block, default_factory=block)
    section.model_rebuild(force=True)
    RunConfig.model_rebuild(force=True)  # its validator holds a copy of the section's
