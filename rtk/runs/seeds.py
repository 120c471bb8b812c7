"""Groups of runs: those of one config with several seeds, `NAME-seed0`, `NAME-seed1`, ..., by `NAME`."""

from __future__ import annotations

from collections.abc import Iterable
from glob import escape
from pathlib import Path

from rtk.config.errors import ConfigError
from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.runs.names import find_folder, group_name
from rtk.runs.object_store import is_uri
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runs.working_copy import but_large, local_folder, pull, pull_runs

UNFINISHED = ("running", "failed", "interrupted", "lost")


def find_group(name: str | Path, output: str = "runs") -> list[RunFolder]:
    """Runs of a group, by seed; empty where there is none.

    Args:
        name: of the group, under `output` or with the path of its folder.
        output: folder of the runs.
    """
    named = local_folder(output) / name
    for path in (local_folder(name),) if is_uri(name) else (local_folder(name), named):
        pull_runs(path.parent, but_large)
        configs = path.parent.glob(f"{escape(path.name)}-seed*/config.yaml")
        runs = [RunFolder(config.parent.absolute()) for config in configs]
        members = [run for run in runs if group_name(run.name, seed_of(run)) == path.name]
        for run in members:
            pull(run.path)
            pull_checkpoints(run.checkpoints)
        if members:
            return sorted(members, key=seed_of)
    return []


def seed_of(run: RunFolder) -> int:
    """Seed of a run."""
    return int(run.config_tree()["seed"])


def open_runs(names: Iterable[str | Path], output: str = "runs") -> list[RunFolder]:
    """Folders of several runs; the name of a group stands for all its runs.

    Raises:
        ConfigError: there is no such run or group, or a group is not trained to its end.
    """
    return [run for name in names for run in _open(name, output)]


def _open(name: str | Path, output: str) -> list[RunFolder]:
    members = [] if find_folder(name, output, "config.yaml") else find_group(name, output)
    for run in members:
        if (status := status_of(run)) in UNFINISHED:
            raise ConfigError(
                f"{name}: {run.name} is {status}, wanted all of them finished; "
                "the command that trains them goes on"
            )
    return members or [RunFolder.open(name, output)]
