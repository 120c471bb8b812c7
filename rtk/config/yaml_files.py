"""Reading YAML: recipes, search spaces, suites, and the values of overrides."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from rtk.config.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but 1e-3 is a number, as in YAML 1.2, and not a word."""


class _Dumper(yaml.SafeDumper):
    """Quotes the words that `_Loader` would take for numbers."""


for _reader in (_Loader, _Dumper):
    _reader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def parse_yaml(text: str) -> Any:
    """The plain data that a YAML text stands for.

    Raises:
        yaml.YAMLError: it is not valid.
    """
    return yaml.load(text, _Loader)  # a safe loader: it builds plain data only


def dump_yaml(tree: Any) -> str:
    """Plain data as a YAML text that `parse_yaml` reads back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def dump_value(value: Any) -> str:
    """Plain data as it would be typed behind `key=`, on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=math.inf)
    return text.strip().removesuffix("\n...")


def read_mapping(path: Path) -> dict[str, Any]:
    """Content of a YAML file.

    Raises:
        ConfigError: naming the file, which cannot be read or is no mapping.
    """
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: got {type(tree).__name__}, wanted a mapping of keys")
    return tree
