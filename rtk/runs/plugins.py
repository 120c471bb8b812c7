"""Plug-ins of a run or a sweep: copies in its folder, so that it needs nothing else, on any node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rtk.config.errors import ConfigError
from rtk.config.plugin_files import PluginFile
from rtk.config.schema import RunConfig
from rtk.runs.atomic import replacing

FOLDER = "plugins"


def copy_plugins(paths: Iterable[str], folder: Path) -> None:
    """Copy files into `plugins/` of a folder."""
    for path in map(Path, paths):
        (folder / FOLDER).mkdir(exist_ok=True)
        (folder / FOLDER / path.name).write_bytes(path.read_bytes())


def tree_with_copies(config: RunConfig) -> dict[str, Any]:
    """A config as plain data that names the copies of its plug-ins, relative to the folder that holds it."""
    tree = config.model_dump(mode="json")
    return {**tree, "plugins": [f"{FOLDER}/{Path(path).name}" for path in config.plugins]}


def recorded_plugins(folder: Path) -> dict[str, str]:
    """SHA-256 by name, as `environment.json` has them."""
    path = folder / "environment.json"
    recorded: dict[str, str] = (
        json.loads(path.read_text(encoding="utf-8")).get(FOLDER, {}) if path.exists() else {}
    )
    return recorded


def read_copies(folder: Path) -> dict[str, bytes]:
    """Contents of the copies in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted((folder / FOLDER).glob("*.py"))}


def write_copies(contents: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Write copies into a folder, which several processes may do at a time; their paths by name."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    paths = {name: folder / FOLDER / name for name in contents}
    for name, path in paths.items():
        with replacing(path) as partial:
            partial.write_bytes(contents[name])
    return {name: str(path) for name, path in paths.items()}


def unchanged_copies(folder: Path) -> list[Path]:
    """The copies that `environment.json` names.

    Raises:
        ConfigError: one has changed since.
    """
    files = []
    for name, sha256 in recorded_plugins(folder).items():
        file = PluginFile.read(folder / FOLDER / name)
        if file.sha256 != sha256:
            raise ConfigError(
                f"plugins: {file.path} has changed: SHA-256 {file.sha256}, recorded is {sha256}"
            )
        files.append(file.path)
    return files
