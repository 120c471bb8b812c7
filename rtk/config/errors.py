"""What is said about bad configs: one line that names the key, what was got and what was wanted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A recipe, an override or an option cannot be used; the message is one line naming the key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a given one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about a name that is not known, with the nearest one that is."""
    return f"unknown {kind} {name!r}, nearest valid {kind} is {nearest(name, known)!r}"
