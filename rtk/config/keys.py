"""Every config key with its type, default and description, read from the schema for help and docs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from rtk.config.changes import When, may_change
from rtk.config.errors import ConfigError, unknown
from rtk.config.schema import RunConfig
from rtk.config.yaml_files import dump_value

BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}


@dataclass(frozen=True)
class Key:
    """One key of a recipe.

    Attributes:
        key: dotted name, `optimizer.lr`.
        type: what its value must be, in words.
        default: its default as plain data; None also where it must be set.
        required: whether it must be set.
        description: what it does, with its unit.
        may_change: occasions on which it may differ from the run's own value (names of `When`).
    """

    key: str
    type: str
    default: Any
    required: bool
    description: str
    may_change: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        """The default as it would be typed behind `key=`."""
        return "(must be set)" if self.required else dump_value(self.default)


def config_keys(prefix: str = "") -> list[Key]:
    """All keys below a prefix, in the order of the schema.

    Args:
        prefix: whole parts of a key, `data` or `data.augment`; empty: all keys.

    Raises:
        ConfigError: no key starts so.
    """
    found = [replace(key, may_change=_occasions(key.key)) for key in keys_of(RunConfig)]
    chosen = [key for key in found if not prefix or f"{key.key}.".startswith(f"{prefix}.")]
    if not chosen:
        raise ConfigError(f"keys: {unknown('key', prefix, (key.key for key in found))}")
    return chosen


def keys_of(model: type[BaseModel], prefix: str = "") -> list[Key]:
    """All keys of a model (`RunConfig`, `SearchSpace`), those of nested sections included."""
    properties = model.model_json_schema()["properties"]
    sections = dict(_sections(model))
    keys = []
    for name, field in model.model_fields.items():
        if name in sections:
            keys += keys_of(sections[name], f"{prefix}{name}.")
            continue
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        type_ = type_in_words(properties[name])
        keys.append(Key(prefix + name, type_, default, field.is_required(), field.description or ""))
    return keys


def _occasions(key: str) -> tuple[str, ...]:
    return tuple(str(when.name).lower() for when in When if may_change(key, when))


def section_summaries(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, str]:
    """What each section of the schema is about, by dotted name, nested sections included."""
    summaries = {}
    for name, section in _sections(model):
        summaries[prefix + name] = (section.__doc__ or "").strip()
        summaries |= section_summaries(section, f"{prefix}{name}.")
    return summaries


def _sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield name, field.annotation


def type_in_words(node: Mapping[str, Any]) -> str:
    """A JSON-schema node as a reader of recipes would say it: `integer > 0 or null`."""
    if len(node.get("anyOf", ())) > 3:
        return "any value"
    if "anyOf" in node:
        return " or ".join(map(type_in_words, node["anyOf"]))
    if "enum" in node or "const" in node:
        return " | ".join(map(dump_value, node.get("enum", [node.get("const")])))
    if "$ref" in node:
        return str(node["$ref"]).rpartition("/")[2]
    if "prefixItems" in node:
        return f"[{', '.join(map(type_in_words, node['prefixItems']))}]"
    if node.get("type") == "array":
        return f"list of {type_in_words(node['items'])}"
    if node.get("type") == "object":
        values = node.get("additionalProperties")
        return f"mapping of {type_in_words(values)}" if isinstance(values, Mapping) else "mapping"
    if node.get("type") == "boolean":
        return "true | false"
    bounds = [f"{sign} {dump_value(node[name])}" for name, sign in BOUNDS.items() if name in node]
    kind = node.get("format") or {"string": "text"}.get(node.get("type", "any"), node.get("type", "any"))
    return f"{kind} {' and '.join(bounds)}".rstrip()
