"""What MLflow is told of a run once: config, versions and hashes of data as params, the rest as tags."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtk.config.load import flatten
from rtk.config.secrets import without_secrets
from rtk.config.yaml_files import read_mapping
from rtk.runs.folder import RunFolder
from rtk.runs.names import group_name
from rtk.runs.sweep import SWEEP_FILE
from rtk.tracking.names import mlflow_key

LONGEST_PARAM = 6000


def params_of(run: RunFolder) -> list[Any]:
    """MLflow's params of a run or a sweep."""
    from mlflow.entities import Param

    settings = ((key, without_secrets(str(value))) for key, value in _settings(run))
    return [Param(mlflow_key(key), value[:LONGEST_PARAM]) for key, value in settings]


def tags_of(run: RunFolder) -> list[Any]:
    """MLflow's tags: the commit that a run or a sweep was started from, and the group of seeds."""
    from mlflow.entities import RunTag

    commit, group = (run.read_json("environment.json") or {}).get("commit"), _group(run)
    tags = {"rtk.seeds": group} if group else {}
    if commit:
        tags |= {"mlflow.source.git.commit": commit["hash"], "rtk.uncommitted_changes": commit["dirty"]}
    return [RunTag(key, str(value)) for key, value in tags.items()]


def _group(run: RunFolder) -> str | None:
    is_sweep = (run.path / SWEEP_FILE).exists()
    return None if is_sweep else group_name(run.name, run.config_tree()["seed"])


def _settings(run: RunFolder) -> Iterator[tuple[str, Any]]:
    environment = run.read_json("environment.json") or {}
    path = run.path / SWEEP_FILE
    yield from flatten(read_mapping(path) if path.exists() else run.config_tree())
    for kind, prefix in (("packages", "version."), ("data", "hash.")):
        yield from ((f"{prefix}{key}", value) for key, value in flatten(environment.get(kind, {})))
    yield from ((f"version.{name}", environment[name]) for name in ("rtk", "python") if name in environment)
