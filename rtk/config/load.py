"""From a YAML recipe and `a.b=c` overrides to a validated `RunConfig`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rtk.config.errors import ConfigError, unknown, wanted_of
from rtk.config.kinds import key_parts, wants_text
from rtk.config.messages import one_line
from rtk.config.overrides import parse_override
from rtk.config.plugin_files import find_plugins, load_plugins
from rtk.config.schema import EvaluateConfig, RunConfig
from rtk.config.secrets import refuse_secrets
from rtk.config.yaml_files import dump_yaml, read_mapping

PLUGINS = "plugins"
NOT_IN_NAMES = re.compile(r"[^\w.-]+")
BUILTIN = "builtin:"  # start of the path of a set that ships with rtk
VARIABLE = re.compile(r"\$\{(\w+)\}")
# Mappings whose keys the user chooses.
FREE_KEYS = (
    "data.csid.",
    "data.near_ood.",
    "data.far_ood.",
    "data.validation_near_ood.",
    "data.validation_far_ood.",
    "deepspeed.",
    "evaluate.scores.",
)
SCORES = ("evaluate", "scores")


@dataclass(frozen=True)
class LoadedConfig:
    """A config with, for every dotted key, where its value came from."""

    config: RunConfig
    origins: dict[str, str]


def load_config(recipe: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Resolve a recipe: defaults < recipe < overrides.

    Args:
        recipe: name of a shipped recipe (`digits_demo`, with or without `.yaml`) or a path to a YAML file.
        overrides: `a.b=value` strings; values are YAML, but text is taken as it is typed.

    Raises:
        ConfigError: naming the key, what was got and what was wanted.
    """
    return load_with_origins(recipe, overrides).config


def load_with_origins(
    recipe: str | Path, overrides: Iterable[str] = (), keep_unset: bool = False
) -> LoadedConfig:
    """Like `load_config`, but also says where every value came from (`rtk train --print-config`).

    `keep_unset` leaves `${VARIABLE}` as it is where the variable is not set, for those who read no files.
    """
    path = find_recipe(recipe)
    tree, origins = _read_recipe(path)
    # Plug-ins first: they may add keys, such as `objective.NAME`, that the others set.
    for override in sorted(overrides, key=lambda text: not text.startswith(f"{PLUGINS}=")):
        key = override.partition("=")[0]
        if key and "=" in override:
            _check_key(key, f"override {override!r}")
        key, value = parse_override(override)
        if key == PLUGINS:
            value = _add_plugins(tree, value, Path())
        if key.startswith("evaluate.scores."):
            tree.setdefault("evaluate", {}).setdefault("scores", EvaluateConfig().scores)
        _assign(tree, key_parts([key], RunConfig), value)
        _mark(origins, key, value, "override")
    tree.setdefault("name", NOT_IN_NAMES.sub("-", path.stem).strip("-") or "run")
    config = build_config(tree, keep_unset)
    leaves = dict(flatten(config.model_dump(mode="json")))
    for key, value in leaves.items():
        refuse_secrets(key, value)
    return LoadedConfig(config, {key: _origin(origins, key) for key in leaves})


def named_order(recipe: str | Path, section: str) -> list[str]:
    """Keys of a section in the order in which a recipe, its `base` first, names them."""
    tree, _ = _read_recipe(find_recipe(recipe))
    return list(tree.get(section, {}))


def override_config(config: RunConfig, values: Mapping[str, Any], where: str = "override") -> RunConfig:
    """A config with other values for some dotted keys (a sweep's trial, say).

    Args:
        config: config to start from.
        values: values by dotted key.
        where: what an unknown key is blamed on.

    Raises:
        ConfigError: naming the key, what was got and what was wanted.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        _check_key(key, where)
        refuse_secrets(key, value)
        _assign(tree, key_parts([key], RunConfig), value)
    return build_config(tree)


def build_config(tree: Mapping[str, Any], keep_unset: bool = False, folder: Path = Path()) -> RunConfig:
    """Validate a plain mapping (a `config.yaml`, say) into a `RunConfig`, and load its plug-ins.

    `keep_unset` as above; paths of plug-ins are relative to `folder`, or else to the working folder.
    """
    plugins = find_plugins(tree.get(PLUGINS, ()), folder)
    load_plugins(plugins)
    try:
        return RunConfig.model_validate({**expand_variables(tree, keep_unset=keep_unset), PLUGINS: plugins})
    except ValidationError as error:
        raise ConfigError(one_line(error, RunConfig)) from None


def kept_builtin(loaded: LoadedConfig) -> dict[str, str]:
    """Sets that a recipe has for the training set that ships with rtk, where another has taken its place.

    Returns:
        The origin of each, by dotted key.
    """
    leaves = dict(flatten({"data": loaded.config.data.model_dump(mode="json")}))
    train, origins = "data.train", loaded.origins
    if leaves[train].startswith(BUILTIN):
        return {}
    shipped = [key for key, path in leaves.items() if isinstance(path, str) and path.startswith(BUILTIN)]
    return {key: origins[key] for key in shipped if origins[key] not in ("override", origins[train])}


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return dump_yaml(config.model_dump(mode="json"))


def expand_variables(value: Any, key: str = "", keep_unset: bool = False) -> Any:
    """Replace `${VARIABLE}` in every string by the environment's value.

    Raises:
        ConfigError: naming the key whose variable is not set, unless `keep_unset`.
    """
    if isinstance(value, Mapping):
        return {
            name: expand_variables(item, f"{key}.{name}".lstrip("."), keep_unset)
            for name, item in value.items()
        }
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        if keep_unset:
            return os.environ.get(match.group(1), match.group(0))
        if match.group(1) not in os.environ:
            raise ConfigError(f"{key}: {value!r} needs the environment variable {match.group(1)}, not set")
        return os.environ[match.group(1)]

    return VARIABLE.sub(lookup, value)


def flatten(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and value for every leaf; empty mappings are leaves."""
    return ((".".join(map(str, path)), value) for path, value in _leaves(tree))


def _leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def shipped_recipes() -> dict[str, Path]:
    """Recipes that come with rtk, by name."""
    folder = Path(str(resources.files("rtk") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """Path of a recipe given by path or by shipped name."""
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if path.name == str(recipe) and path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    raise ConfigError(f"recipe: got {str(recipe)!r}, wanted a YAML file or {wanted_of(str(recipe), shipped)}")


def valid_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every dotted key of the schema, sections included."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += valid_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _read_recipe(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """A recipe's tree and origins, laid over those of its `base` recipe where it names one."""
    if path in above:
        raise ConfigError(f"{path}: base: a recipe cannot be its own base")
    tree = read_mapping(path, partial(wants_text, RunConfig))
    base_name = tree.pop("base", None)
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if base_name is not None:
        merged, origins = _read_recipe(_find_base(path, base_name), (*above, path))
    if PLUGINS in tree:
        tree[PLUGINS] = _add_plugins(merged, tree[PLUGINS], path.parent)
    for names, value in _leaves(tree):
        key = ".".join(names)
        _check_key(key, str(path))
        _assign(merged, key_parts(names, RunConfig), value)
        _mark(origins, key, value, f"recipe {path.stem}")
    return merged, origins


def _add_plugins(tree: dict[str, Any], given: Any, folder: Path) -> list[str]:
    """Load plug-ins and put them behind those that a tree names, which the tree's own keys may need."""
    tree[PLUGINS] = list(find_plugins([*tree.get(PLUGINS, ()), *find_plugins(given, folder)], folder))
    load_plugins(tree[PLUGINS])
    return tree[PLUGINS]


def _find_base(path: Path, base_name: Any) -> Path:
    """A recipe beside this one, or a shipped one (of the same name as this one, say)."""
    if not isinstance(base_name, str):
        raise ConfigError(f"{path}: base: got {base_name!r}, wanted the name of a recipe")
    sibling = path.parent / f"{base_name.removesuffix('.yaml')}.yaml"
    return sibling if sibling.is_file() and sibling != path else find_recipe(base_name)


def _check_key(key: str, where: str) -> None:
    """Refuse a key that the schema does not have, naming the nearest one that it has."""
    known = valid_keys()
    if key in known:
        return
    if key.startswith(FREE_KEYS):
        return
    raise ConfigError(f"{where}: {unknown('key', key, known)}")


def _assign(tree: dict[str, Any], parts: tuple[str, ...], value: Any) -> None:
    *parents, leaf = parts
    if parts[:2] == SCORES and leaf != "scores":
        _open_scores(tree)
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[leaf] = value


def _open_scores(tree: dict[str, Any]) -> None:
    """Make a list of scores a mapping, to which hyper-parameters can be added."""
    section = tree.get("evaluate", {})
    if isinstance(names := section.get("scores"), list | tuple):
        section["scores"] = {name: {} for name in names}


def _mark(origins: dict[str, str], key: str, value: Any, origin: str) -> None:
    """Record where a key came from; a mapping marks its leaves and clears older marks below it."""
    for old in [name for name in origins if name.startswith(f"{key}.")]:
        del origins[old]
    origins[key] = origin


def _origin(origins: Mapping[str, str], key: str) -> str:
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        origin = origins.get(".".join(parts[:length]))
        if origin is not None:
            return origin
    return "default"
