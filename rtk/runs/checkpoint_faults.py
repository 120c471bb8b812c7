"""Whether checkpoints are whole: every file as long as it was written, with the same content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rtk.runs.checkpoints import (
    MANIFEST,
    CheckpointError,
    fetch_whole,
    has_checkpoint,
    numbered,
    point_to,
    pointer_file,
    read_manifest,
    read_pointer,
    resolve_checkpoint,
    size_in,
)
from rtk.runs.file_records import FileRecord, fault_of_content, hash_of_file
from rtk.runs.stored_checkpoints import stored_sizes


def faults(folder: Path, contents: bool = True, every_byte: bool = False) -> list[str]:
    """What is wrong with the files of a checkpoint, a line each; nothing is known without a manifest.

    Args:
        folder: of a checkpoint.
        contents: compare hashes too, not just lengths.
        every_byte: also of the files of which the run lets some blocks do (`train.verify: sampled`).
    """
    if not (folder / MANIFEST).exists():
        return []
    try:
        files = read_manifest(folder)["files"]
        stored = None if contents else stored_sizes(folder)
        if stored is not None:
            sizes = {name: size_in(record) for name, record in files.items()}
            return [_of_length(n, size, stored.get(n)) for n, size in sizes.items() if size != stored.get(n)]
        fetched = fetch_whole(folder) if contents else []
    except CheckpointError as error:
        return [str(error)]
    found = []
    for name, record in files.items():
        of_file = list(_faults(folder / name, record, contents, every_byte or name in fetched))
        if of_file and name in fetched:
            (folder / name).unlink(missing_ok=True)  # or it would be taken for whole by its length
        found += of_file
    return found


def have_whole(folder: Path) -> None:
    """Have all files of a checkpoint on this machine, as long as they were; what is fetched also by content.

    Raises:
        CheckpointError: naming what is damaged.
    """
    fetched = fetch_whole(folder)
    check_whole(folder, contents=bool(fetched))


def check_whole(folder: Path, contents: bool = True) -> None:
    """Refuse a damaged checkpoint.

    Raises:
        CheckpointError: naming what is damaged.
    """
    found = faults(folder, contents)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise CheckpointError(f"{folder}: damaged: {found[0]}{more}; rtk checkpoints RUN --verify lists all")


def mend(alias: Path) -> str | None:
    """Let an alias point to the newest whole checkpoint, where the one that it points to is damaged.

    Returns:
        What was damaged and what is used instead; None where nothing was.

    Raises:
        CheckpointError: none is whole.
    """
    fault = next(iter(faults_of(alias)), None)
    if fault is None and not has_checkpoint(alias) and numbered(alias.parent):
        fault = f"{pointer_file(alias).name}: missing"
    if fault is None:
        return None
    for folder in reversed(numbered(alias.parent)):
        if not faults(folder):
            point_to(alias, folder)
            return f"{alias}: {fault}; going on from {folder.name}, the newest whole checkpoint"
    raise CheckpointError(f"{alias}: {fault}; no whole checkpoint is left beside it")


def faults_of(alias: Path) -> list[str]:
    """What is wrong with the checkpoint that an alias points to, and with the pointer."""
    if not has_checkpoint(alias):
        return []
    try:
        folder, pointer = resolve_checkpoint(alias), read_pointer(alias)
    except CheckpointError as error:
        return [str(error)]
    if pointer and hash_of_file(folder / MANIFEST) != pointer["manifest"]:
        return [f"{folder.name}/{MANIFEST}: is not the one that {pointer_file(alias).name} was written for"]
    return [f"{folder.name}/{fault}" for fault in faults(folder)]


def _of_length(name: str, wanted: int, there: int | None) -> str:
    return f"{name}: missing" if there is None else f"{name}: {there:,} bytes, wanted {wanted:,}"


def _faults(path: Path, record: FileRecord, contents: bool, every_byte: bool) -> Iterator[str]:
    try:
        size = path.stat().st_size
        if size != record["bytes"]:
            yield _of_length(path.name, record["bytes"], size)
        elif contents and (fault := fault_of_content(path, record, every_byte)):
            yield f"{path.name}: {fault}"
    except FileNotFoundError:
        yield _of_length(path.name, 0, None)
    except OSError as error:
        yield f"{path.name}: {error.strerror}"
    except (KeyError, TypeError, ValueError, IndexError):
        yield f"{MANIFEST}: damaged, wanted length and hash of {path.name}"
