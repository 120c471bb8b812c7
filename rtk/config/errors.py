"""What is said about bad configs: one line that names the key, what was got and what was wanted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A recipe, an override or an option cannot be used; the message is one line naming the key."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a given one: one that ends in it where there is any."""
    names = list(known)
    longer = [each for each in names if each.endswith(f".{name}")]
    return difflib.get_close_matches(name, longer or names, n=1, cutoff=0.0)[0]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about a name that is not known, with the nearest one that is."""
    return f"unknown {kind} {name!r}, nearest valid {kind} is {nearest(name, known)!r}"


def wanted_of(name: str, known: Iterable[str]) -> str:
    """The known names, and the nearest one, for messages such as `recipe: got NAME, wanted ...`."""
    names = list(known)
    return f"one of {', '.join(names)}" + (f" (nearest: {nearest(name, names)})" if names else "")
