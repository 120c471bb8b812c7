"""Names of runs and sweeps: which folder one means, and which a new one may have."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from rtk.config.errors import ConfigError
from rtk.runs.object_store import is_uri
from rtk.runs.working_copy import but_large, local_folder, place_of, pull, pull_runs

LAST = "last"  # the run, or sweep, that was started or resumed last


def find_folder(name: str | Path, output: str | Path, *markers: str) -> Path | None:
    """Folder of a run or a sweep; None where there is none.

    Args:
        name: path, URI, name under `output`, or `last`.
        output: folder of the runs, or its URI.
        markers: names of files of which such a folder has one; their time is that of the last start.
    """
    runs = local_folder(output)
    for path in (local_folder(name),) if is_uri(name) else (local_folder(name), runs / name):
        pull(path)
        if any((path / marker).is_file() for marker in markers):
            return path
    if str(name) != LAST:
        return None
    pull_runs(runs, but_large)
    started = [path for marker in markers for path in runs.glob(f"[!.]*/{marker}")]
    newest = max(started, key=lambda path: path.stat().st_mtime_ns, default=None)
    if newest is None:
        return None
    pull(newest.parent)
    return newest.parent.absolute()


def free_folder(name: str, output: str, option: str = "--name", way_out: str = "") -> Path:
    """Where the folder of a new run or sweep goes; the option, and what helps, are for the message.

    Raises:
        ConfigError: there is one already, or it is no name for a folder.
    """
    check_name(name, option)
    path = local_folder(output) / name
    pull(path)
    if path.exists():
        way_out = way_out or f"--resume {name} continues it"
        raise ConfigError(f"{option}: {place_of(path)} exists already; {way_out}")
    return path


def check_name(name: str, option: str = "--name") -> None:
    """Refuse what is no name for the folder of a run or sweep.

    Raises:
        ConfigError: naming the option.
    """
    if name in ("", ".", "..", LAST) or Path(name).name != name:
        raise ConfigError(f"{option}: got {name!r}, wanted a name for a folder, and not {LAST!r}")


def unique_name(prefix: str) -> str:
    """`{prefix}-{date}-{time}-{hex4}`."""
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def seed_run_name(name: str, seed: int) -> str:
    """Name of the run of a seed, where one config is trained with several."""
    return f"{name}-seed{seed}"


def group_name(run_name: str, seed: int) -> str | None:
    """What the runs of several seeds are called together, from the name and the seed of one; None without."""
    name = run_name.removesuffix(seed_run_name("", seed))
    return name if name and name != run_name else None
