"""Reading YAML: recipes, search spaces, suites, and the values of overrides.

Numbers are those of YAML 1.2: 1e-3 is one, 010 is ten, 1:30 and 2026-11-26 are words. Names of keys are text,
and so is what stands where text alone is wanted: a run may be called 2026, or `no`. No key stands twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from rtk.config.errors import ConfigError

YamlPath = tuple[int | str, ...]  # names of keys and places in lists, from the outside
BOOL, FLOAT, INT, MERGE, NULL, TEXT, TIME = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "merge", "null", "str", "timestamp")
)
NUMBERS = (
    (INT, re.compile(r"^[-+]?(0x[0-9a-fA-F]+|\d[\d_]*)$")),
    (
        FLOAT,
        re.compile(r"^([-+]?(\.\d+|\d[\d_]*(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    ),
)


class RepeatedKeyError(yaml.YAMLError):
    """A key stands twice in one mapping: its dotted name, and the lines (from 1) of the two."""

    def __init__(self, name: str, line: int, before: int) -> None:
        super().__init__(f"line {line}: {name} stands in line {before} already")
        self.name = name


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2, and without dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name)
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INT, FLOAT, TIME)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `_Loader`, or another reader of YAML, would take for numbers or dates."""


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    digits = loader.construct_scalar(node).replace("_", "")
    return int(digits, 16 if "x" in digits else 10)


_Loader.add_constructor(INT, _whole_number)
for _reader in (_Loader, _Dumper):
    for _tag, _pattern in NUMBERS:
        _reader.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))


def parse_yaml(text: str, wants_text: Callable[[YamlPath], bool] = lambda path: False) -> Any:
    """The plain data that a YAML text stands for.

    Args:
        text: YAML.
        wants_text: whether text alone is wanted at a path, so that an unquoted 2026 or `no` is a word there.

    Raises:
        yaml.YAMLError: it is not valid, a key stands twice, or a comment follows a value on one line.
    """
    loader = _Loader(text)  # a safe loader: it builds plain data only
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _settle(node, (), wants_text, {})
        return loader.construct_document(node)
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        # A number of thousands of digits, or a value that is not what its own tag (`!!timestamp`) says.
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("nested too deep") from None
    finally:
        loader.dispose()


def _settle(
    node: yaml.Node, path: YamlPath, wants_text: Callable[[YamlPath], bool], settled: dict[int, bool]
) -> None:
    """Make words of what is text at its place; refuse keys that stand twice, and what holds itself."""
    if id(node) in settled:  # an alias
        if not settled[id(node)]:
            raise yaml.YAMLError(f"{'.'.join(map(str, path))} is an alias of what it stands in")
        return
    settled[id(node)] = False
    _settle_parts(node, path, wants_text, settled)
    settled[id(node)] = True


def _settle_parts(
    node: yaml.Node, path: YamlPath, wants_text: Callable[[YamlPath], bool], settled: dict[int, bool]
) -> None:
    if isinstance(node, yaml.SequenceNode):
        for place, item in enumerate(node.value):
            _settle(item, (*path, place), wants_text, settled)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                key.tag, line = TEXT, key.start_mark.line + 1
                if key.value in lines:
                    name = ".".join(str(part) for part in (*path, key.value))
                    raise RepeatedKeyError(name, line, lines[key.value])
                lines[key.value] = line
            _settle(value, (*path, str(key.value)), wants_text, settled)
    elif (
        isinstance(node, yaml.ScalarNode)
        and node.style is None
        and node.tag not in (TEXT, NULL)
        and wants_text(path)
    ):
        node.tag = TEXT


def unquoted(text: str) -> str | None:
    """What stands between quotes, of a text that is one quoted word; None for any other text."""
    if text[:1] not in ("'", '"'):
        return None
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return None
    return value if isinstance(value, str) and text[-1:] == text[0] else None


def value_end(text: str) -> int:
    """Where the value of a YAML text ends; behind it is white space, or a comment."""
    node = yaml.compose(text, _Loader)
    return len(text) if node is None else int(node.end_mark.index)


def dump_yaml(tree: Any) -> str:
    """Plain data as a YAML text that `parse_yaml` reads back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def dump_value(value: Any) -> str:
    """Plain data as it would be typed behind `key=`, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf)
    return text.strip().removesuffix("\n...")


def read_mapping(path: Path, wants_text: Callable[[YamlPath], bool] = lambda path: False) -> dict[str, Any]:
    """Content of a YAML file.

    Args:
        path: of the file.
        wants_text: as in `parse_yaml`.

    Raises:
        ConfigError: naming the file, which cannot be read or is no mapping, or names a key twice.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), wants_text)
    except RepeatedKeyError as error:
        raise ConfigError(f"{path}, {error}, wanted each key once") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got {type(tree).__name__}, wanted a mapping of keys")
    return tree
