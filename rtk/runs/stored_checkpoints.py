"""Checkpoints of runs on object storage: which there are, and the files of one, on this machine.

`rtk.runs.checkpoints` sends what it writes, file by file; here is how another process comes by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from rtk.runs.working_copy import LOCK, made, store_of


def pull_checkpoints(folder: Path) -> None:
    """Bring what is known of a run's checkpoints up to date: which there are, and what the aliases point to.

    Args:
        folder: of the checkpoints.
    """
    store = store_of(folder)
    if store is None:
        return
    there = store.entries()
    with FileLock(made(folder) / LOCK):
        for path in folder.glob("*/manifest.json"):
            if path.relative_to(folder).as_posix() not in there:
                path.unlink()  # pruned by another process
        for name in there:
            is_alias = "/" not in name and name.endswith(".json")
            if is_alias or (name.endswith("/manifest.json") and not (folder / name).exists()):
                store.download(name, folder / name)
        for path in folder.glob("*.json"):
            if path.name not in there:
                path.unlink()


def fetch_missing(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    """Download those files of a checkpoint that are not here; what is missing there stays missing.

    Args:
        folder: of the checkpoint.
        sizes: bytes of its files, by name.

    Returns:
        What has been downloaded.
    """
    store = store_of(folder)
    if store is None or not _lacking(folder, sizes):
        return []
    with FileLock(made(folder) / LOCK):
        wanted, there = _lacking(folder, sizes), store.entries()
        found = [name for name in wanted if name in there]
        for name in found:
            store.download(name, folder / name)
    return found


def remove_unfinished(folder: Path) -> None:
    """Delete what was sent of checkpoints that were never finished.

    Args:
        folder: of the checkpoints.
    """
    store = store_of(folder)
    if store is not None:
        there = store.entries()
        for name in there:
            if "/" in name and f"{name.partition('/')[0]}/manifest.json" not in there:
                store.delete(name)


def remove_folder(folder: Path) -> None:
    """Delete the objects behind a folder of a working copy, that which makes it whole first."""
    store = store_of(folder)
    if store is not None:
        for name in sorted(store.entries(), key=lambda name: not name.endswith("manifest.json")):
            store.delete(name)


def _lacking(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    there = {path.name: path.stat().st_size for path in folder.glob("*")}
    return [name for name, size in sizes.items() if there.get(name) != size]
