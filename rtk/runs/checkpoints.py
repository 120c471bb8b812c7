"""The checkpoints of a run on disk: numbered folders, each whole or not there, and what points to them.

`checkpoints/00007-step-420/` holds files that are never written again and, written last, `manifest.json` with
the length and the SHA-256 of each. `last.json` and `best.json` name such a folder and the SHA-256 of its
manifest. What is referred to is synced to disk before what refers to it is written: after a crash or a loss
of power there is the old checkpoint or the new one, never a part of one.

`checkpoints/last` and `checkpoints/best` are what everything else calls them: an alias is a path beside the
numbered folders. In runs of earlier versions they are folders themselves, without a manifest.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rtk.runs.atomic import replacing, sync_to_disk
from rtk.runs.file_records import FileRecord, hash_of_file, record_of
from rtk.runs.json_files import SHAPES, first_fault
from rtk.runs.stored_checkpoints import fetch_missing, remove_folder, remove_unfinished
from rtk.runs.working_copy import push_file, remove_file

MANIFEST = "manifest.json"
STATE = "state.json"  # every checkpoint has one, of whatever version
KEPT = 2  # newest whole checkpoints that stay; what an alias points to stays beside them
NUMBERED = re.compile(r"(\d{5,})-step-(\d+)")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit the model; the message says which part."""


# ---------------------------------------------------------------- finding


def resolve_checkpoint(alias: Path) -> Path:
    """The folder of a checkpoint, given its alias or the folder itself.

    Raises:
        CheckpointError: there is none.
    """
    name = read_pointer(alias).get("checkpoint")
    if name is not None:
        folder = alias.with_name(name)
        if (folder / MANIFEST).is_file():
            return folder
        raise CheckpointError(f"{pointer_file(alias)}: names {name}, which is not there{_instead(alias)}")
    for candidate in _earlier_versions(alias):
        if (candidate / STATE).is_file():
            return candidate
    raise CheckpointError(f"{alias}: no checkpoint there{_instead(alias)}")


def has_checkpoint(alias: Path) -> bool:
    """Whether a checkpoint has been written there, damaged or not."""
    return pointer_file(alias).exists() or any((c / STATE).is_file() for c in _earlier_versions(alias))


def numbered(folder: Path) -> list[Path]:
    """Folders of finished checkpoints, the oldest first."""
    return sorted(path for path in folder.glob("*-step-*") if _number(path) and (path / MANIFEST).is_file())


def aliases(folder: Path) -> dict[str, list[str]]:
    """Aliases by the name of the checkpoint that they point to."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(CheckpointError):
            found.setdefault(read_pointer(path.with_suffix("")).get("checkpoint", ""), []).append(path.stem)
    return found


def _earlier_versions(alias: Path) -> tuple[Path, Path]:
    return alias, alias.with_name(alias.name + ".old")


def pointer_file(alias: Path) -> Path:
    """Where it is written down what an alias is."""
    return alias.with_name(alias.name + ".json")


def read_pointer(alias: Path) -> dict[str, str]:
    """What an alias points to: `checkpoint` and `manifest`; nothing where there is no pointer."""
    file = pointer_file(alias)
    try:
        found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        if NUMBERED.fullmatch(found["checkpoint"]) and found["manifest"]:
            return found
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{file}: damaged, wanted the name of a checkpoint and the hash of its manifest")


def _number(folder: Path) -> int:
    match = NUMBERED.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _instead(alias: Path) -> str:
    there = {path.stem for path in alias.parent.glob("*.json")}
    there |= {path.name for path in alias.parent.glob("*") if (path / STATE).is_file() and not _number(path)}
    return f"; there is {' and '.join(sorted(there - {alias.name}))}" if there - {alias.name} else ""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = list(content["files"])
        is_known = first_fault(content, SHAPES[MANIFEST]) is None and "step" in content
        if is_known and all(Path(name).name == name for name in names):
            return content
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CheckpointError(f"{MANIFEST}: damaged, wanted the files of the checkpoint and its step")


def fetch_whole(folder: Path) -> list[str]:
    """Have all files of a checkpoint on this machine, where it lies on object storage.

    Returns:
        Those that were not here.

    Raises:
        CheckpointError: its manifest is damaged.
    """
    if not (folder / MANIFEST).exists():  # of an earlier version, which knew folders of this machine only
        return []
    files = read_manifest(folder)["files"]
    return fetch_missing(folder, {name: size_in(record) for name, record in files.items()})


def size_in(record: Any) -> int:
    """Bytes of a file by its record, which may be damaged; 0 then."""
    size = record.get("bytes") if isinstance(record, dict) else None
    return size if isinstance(size, int) else 0


def fetch_state(folder: Path) -> Path:
    """The file of a checkpoint that says where the run stands, on this machine."""
    if not (folder / STATE).exists():
        fetch_missing(folder, {STATE: 0})
    return folder / STATE


# ---------------------------------------------------------------- writing


def new_folder(alias: Path, step: int) -> Path:
    """Make the folder of the checkpoint to be written next; removes those that were never finished."""
    there = [path for path in alias.parent.glob("*-step-*") if _number(path)]
    remove_unfinished(alias.parent)
    drop_unfinished(alias.parent)
    folder = alias.with_name(f"{max(map(_number, there), default=0) + 1:05d}-step-{step}")
    folder.mkdir(parents=True)
    return folder


def drop_unfinished(folder: Path, but: Path | None = None) -> None:
    """Delete, on this machine, the folders of checkpoints without a manifest; one may be being written."""
    for path in folder.glob("*-step-*"):
        if _number(path) and path != but and not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)


def seal(path: Path, in_blocks: bool = False) -> FileRecord:
    """Sync a file to disk, and send it where the run lies; returns its record for the manifest."""
    sync_to_disk(path)
    record = record_of(path, in_blocks)
    push_file(path)
    return record


def publish(alias: Path, folder: Path, files: Mapping[str, FileRecord], about: Mapping[str, Any]) -> None:
    """Make a checkpoint visible, all of whose files have been sealed: its manifest, then what points to it.

    Args:
        alias: of the checkpoint from now on.
        folder: of `new_folder`.
        files: records by name.
        about: what else the manifest says.
    """
    sync_to_disk(folder)
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    _write_json(folder / MANIFEST, {"format": 1, **about, "saved": saved, "files": dict(files)})
    sync_to_disk(folder.parent)
    point_to(alias, folder)


def point_to(alias: Path, folder: Path) -> None:
    """Let an alias be that of a finished checkpoint beside it."""
    _write_json(pointer_file(alias), {"checkpoint": folder.name, "manifest": hash_of_file(folder / MANIFEST)})


def renew(alias: Path) -> Path:
    """The folder of a checkpoint; one of an earlier version is copied into a numbered one, as it is now."""
    folder = resolve_checkpoint(alias)
    if (folder / MANIFEST).is_file():
        return folder
    step = int(json.loads((folder / STATE).read_text(encoding="utf-8"))["step"])
    target = new_folder(alias, step)
    files = {}
    for path in (path for path in folder.iterdir() if path.is_file()):
        shutil.copyfile(path, target / path.name)  # moved, a crash would leave neither whole
        files[path.name] = seal(target / path.name)
    publish(alias, target, files, {"step": step})
    return target


def forget(alias: Path) -> None:
    """Take an alias away; its checkpoint stays until it is pruned."""
    remove_file(pointer_file(alias))


def prune(folder: Path, kept: int = KEPT) -> list[Path]:
    """Delete checkpoints that nothing points to, the newest excepted, and folders that aliases once were.

    Args:
        folder: of the checkpoints of a run.
        kept: number of the newest to keep.

    Returns:
        What was deleted.
    """
    finished, used = numbered(folder), aliases(folder)
    doomed = [path for path in finished[: max(0, len(finished) - kept)] if path.name not in used]
    if len(finished) >= kept:
        names = {name for pointing in used.values() for name in pointing}
        doomed += [path for name in names for path in _earlier_versions(folder / name) if path.is_dir()]
    for path in doomed:
        remove_folder(path)
        (path / MANIFEST).unlink(missing_ok=True)  # an interrupted deletion leaves nothing that looks whole
        shutil.rmtree(path)
    return doomed


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replacing(path, durable=True) as partial:
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    push_file(path)
