"""Overrides, `a.b=value`: what was typed is what is used."""

from __future__ import annotations

from typing import Any

import yaml

from rtk.config.errors import ConfigError
from rtk.config.kinds import key_parts, wants_text
from rtk.config.schema import RunConfig
from rtk.config.yaml_files import RepeatedKeyError, dump_value, parse_yaml, unquoted, value_end

NULLS = ("null", "Null", "NULL", "~")


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of `key=value`.

    Where the key takes text the value is what was typed, but for `null` and for quotes around all of it;
    elsewhere it is YAML.

    Raises:
        ConfigError: it has another form, or the value is no YAML, or YAML would leave out a part of it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override: got {text!r}, wanted key=value such as train.duration=3ep")
    return key, typed_value(key, value)


def typed_value(key: str, text: str) -> Any:
    """What is meant by a text that was typed as the value of a key; errors as `parse_override`."""
    names = key_parts([key], RunConfig)
    if not text:
        return ""
    if wants_text(RunConfig, names):
        quoted = unquoted(text)
        return quoted if quoted is not None else None if text in NULLS else text
    try:
        value = parse_yaml(text, lambda path: wants_text(RunConfig, (*names, *path)))
        rest = text[value_end(text) :].strip()
    except RepeatedKeyError as error:
        raise ConfigError(f"override {key}: {error.name} stands twice, wanted each key once") from None
    except yaml.YAMLError:
        raise ConfigError(f"override {key}: got {text!r}, wanted a YAML value") from None
    if rest:
        raise ConfigError(f"override {key}: got {text!r}, of which {rest!r} is a comment, wanted it left out")
    return value


def override_text(key: str, value: Any) -> str:
    """`key=value` that `parse_override` reads back."""
    return f"{key}={dump_value(value)}"
