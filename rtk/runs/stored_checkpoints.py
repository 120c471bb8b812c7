"""Checkpoints of runs on object storage: which there are, and the files of one, on this machine.

`rtk.runs.checkpoints` sends what it writes, file by file; here is how another process comes by it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from rtk.runs.working_copy import LOCK, RECORD, made, push, stamp_of, store_of


def pull_checkpoints(folder: Path) -> None:
    """Bring what is known of a run's checkpoints up to date: which there are, and what the aliases point to.

    Files here of a checkpoint whose manifest is another there are of another run, which had the same name.

    Args:
        folder: of the checkpoints.
    """
    store = store_of(folder)
    if store is None or (not (there := store.entries()) and not folder.exists()):
        return
    with FileLock(made(folder) / LOCK):
        for path in folder.glob("*/manifest.json"):
            entry = there.get(path.relative_to(folder).as_posix())
            if entry is None or stamp_of(path) != list(entry):
                shutil.rmtree(path.parent)
        for name in there:
            is_alias = "/" not in name and name.endswith(".json")
            if is_alias or (name.endswith("/manifest.json") and not (folder / name).exists()):
                store.download(name, folder / name)
        for path in folder.glob("*.json"):
            if path.name not in there:
                path.unlink()


def send_what_led_here(folder: Path) -> None:
    """Send what is new in the working copy that the folder of a run is, or that of a trial is in.

    Before a checkpoint is, so that a machine that goes on from it elsewhere has the metrics until there.

    Raises:
        StorageError: the storage cannot be written to.
    """
    for copy in (folder, folder.parent):
        if (copy / RECORD).exists():
            push(copy)
            return


def stored_sizes(folder: Path) -> dict[str, int] | None:
    """Bytes of the files of a checkpoint where it is stored, by name; None where that is on this machine."""
    store = store_of(folder)
    return None if store is None else {name: entry.size for name, entry in store.entries().items()}


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


@contextmanager
def whole_or_gone(folder: Path) -> Iterator[None]:
    """Delete a folder that the body writes, and what is stored of it, where that fails."""
    try:
        yield
    except BaseException:
        remove_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _lacking(folder: Path, sizes: Mapping[str, int]) -> list[str]:
    there = {path.name: path.stat().st_size for path in folder.glob("*")}
    return [name for name, size in sizes.items() if there.get(name) != size]
