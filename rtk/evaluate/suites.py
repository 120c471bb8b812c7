"""Suites: which image sets a benchmark tests on, grouped into near- and far-OOD as OpenOOD does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError, unknown, wanted_of
from rtk.config.load import expand_variables, flatten, valid_keys
from rtk.config.secrets import refuse_secrets
from rtk.config.yaml_files import read_mapping

NAMED = (*GROUPS, "csid")  # keys with sets by name
SUITE_KEYS = (*NAMED, "test", "validation_ood")


@dataclass(frozen=True)
class OODSet:
    """An out-of-distribution test set: its name, `near` or `far`, and its path."""

    name: str
    group: str
    path: str


@dataclass(frozen=True)
class Suite:
    """A benchmark's sets.

    Attributes:
        name: of the YAML file.
        sets: OOD test sets.
        csid: paths of test sets of the same classes under covariate shift, by name.
        test: in-distribution test set; None: the recipe's.
        validation_ood: OOD images to tune on, none of them in `sets`; None: the recipe's.
    """

    name: str
    sets: tuple[OODSet, ...]
    test: str | None = None
    validation_ood: str | None = None
    csid: Mapping[str, str] = field(default_factory=dict)


def shipped_suites() -> dict[str, Path]:
    """Suites that come with rtk, by name."""
    folder = Path(str(resources.files("rtk") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suite(suite: str | Path) -> Suite:
    """Read a suite, shipped (by name) or a YAML file with `near`, `far`, `csid`, `test`, `validation_ood`.

    Raises:
        ConfigError: no such suite, no YAML, an unknown key (named with the nearest valid one), a path that
            is no string, or an environment variable that is not set.
    """
    path = _find_suite(suite)
    tree = expand_variables(_read_suite(path), f"suite {path.stem}")
    for key, value in flatten(tree):
        refuse_secrets(f"suite {path.stem}: {key}", value)
    sets = [OODSet(name, group, where) for group in GROUPS for name, where in tree.get(group, {}).items()]
    if not sets:
        raise ConfigError(f"{path}: got no OOD set, wanted some under near or far")
    return Suite(path.stem, tuple(sets), tree.get("test"), tree.get("validation_ood"), tree.get("csid", {}))


def parse_ood(text: str) -> OODSet:
    """`NAME=PATH` for a set of a shipped suite, `near:NAME=PATH` or `far:NAME=PATH` for any.

    Raises:
        ConfigError: where the form is another or the group is not known.
    """
    label, equals, path = text.partition("=")
    group, colon, name = label.rpartition(":")
    if not equals or not name or not path:
        raise ConfigError(f"--ood: got {text!r}, wanted NAME=PATH, near:NAME=PATH or far:NAME=PATH")
    if not colon:
        group = known_groups().get(name, "")
    if group not in GROUPS:
        key = f" ({unknown('key', name, valid_keys())})" if "." in name else ""
        raise ConfigError(f"--ood: is {name!r} near or far? Say near:{name}=PATH or far:{name}=PATH{key}")
    return OODSet(name, group, path)


@cache
def known_groups() -> dict[str, str]:
    """Group of every OOD set that a shipped suite names; no two of them disagree."""
    trees = [_read_suite(path) for path in shipped_suites().values()]
    return {name: group for tree in trees for group in GROUPS for name in tree.get(group, {})}


def _find_suite(suite: str | Path) -> Path:
    path, shipped = Path(suite), shipped_suites()
    if path.is_file():
        return path
    if str(suite) in shipped:
        return shipped[str(suite)]
    raise ConfigError(f"--suite: got {str(suite)!r}, wanted a YAML file or {wanted_of(str(suite), shipped)}")


def _read_suite(path: Path) -> dict[str, Any]:
    """The checked tree of a suite, variables not yet expanded."""
    tree = read_mapping(path, lambda place: True)  # names and paths only
    for key, value in tree.items():
        if key not in SUITE_KEYS:
            raise ConfigError(f"{path}: {unknown('key', str(key), SUITE_KEYS)}")
        entries = value if key in NAMED else {"": value}
        if not isinstance(entries, dict) or not all(isinstance(item, str) for item in entries.values()):
            wanted = "sets as name: path" if key in NAMED else "a path"
            raise ConfigError(f"{path}: {key}: got {value!r}, wanted {wanted}")
    return tree
