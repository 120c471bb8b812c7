"""Folders on object storage are worked with as folders on this machine: their working copies.

`s3://bucket/runs/a` is `~/.cache/rtk/s3/bucket/runs/a` (`RTK_CACHE` names another place), so that a path
says where it comes from, and every process of every node finds its own. Behind the bucket's name stands what
else tells servers apart: `@` and a hash of `AWS_ENDPOINT_URL`, `+` and the URI's options.

Files of a run are pulled when it is opened and pushed when they have changed; those of checkpoints, which are
large and never change, are pushed where they are written and fetched where they are read. Functions here do
nothing to other folders.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from filelock import FileLock

from rtk.runs.atomic import write_json
from rtk.runs.object_store import SCHEMES, Entry, ObjectStore, Uri, is_uri, parse_uri

CACHE = "RTK_CACHE"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
RECORD = ".synced.json"  # in a working copy: what was last the same here and there
LOCK = ".synced.lock"
CHECKPOINTS = "checkpoints"
SETTLED_SECONDS = 5  # by which the clocks of two machines may differ, too
# Of the process that trains and of no use to any other; Ray's own.
LEFT_OUT = ("ray", "ranks", "tune", "stop", "save", "failure.json")
OPENED: set[Path] = set()  # by this process, to send what it changes in them
Stamp: TypeAlias = list[int]  # size in bytes and time of writing in nanoseconds


def cache_folder() -> Path:
    """Where rtk keeps on this machine what can be had again: working copies, built-in data sets."""
    given = os.environ.get(CACHE)
    return Path(given).absolute() if given else Path.home() / ".cache" / "rtk"


def local_folder(place: str | Path) -> Path:
    """The folder of a place on this machine: itself, or the working copy of a URI.

    Raises:
        ConfigError: a URI that names none.
    """
    if not is_uri(place):
        return Path(place).absolute()
    uri = parse_uri(str(place))
    # No bucket's name has a @ or a +; what follows has no character that means something in a URI of a file.
    options = f"+{urlsafe_b64encode(uri.options.encode()).decode().rstrip('=')}" if uri.options else ""
    return cache_folder() / uri.scheme / f"{uri.bucket}{_server(uri)}{options}" / uri.folder


def _server(uri: Uri) -> str:
    """What tells a bucket from one of the same name elsewhere, where the environment alone says which."""
    address = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), "")
    is_given = uri.scheme != "s3" or "endpoint_override=" in uri.options
    return f"@{hashlib.sha256(address.encode()).hexdigest()[:8]}" if address and not is_given else ""


def place_of(path: Path) -> str:
    """The URI of what a path is a working copy of; else the path itself."""
    uri = _uri_of(path)
    return str(path if uri is None else uri)


def in_folder(place: str, name: str) -> str:
    """The path, or the URI, of what is in a folder."""
    uri = parse_uri(place) if is_uri(place) else None
    return str(Path(place) / name if uri is None else uri._replace(folder=f"{uri.folder}/{name}".strip("/")))


def store_of(folder: Path) -> ObjectStore | None:
    """The object storage behind a folder; None where it is no working copy."""
    uri = _uri_of(folder)
    return None if uri is None else ObjectStore(uri)


def _uri_of(path: Path) -> Uri | None:
    parts = path.relative_to(cache_folder()).parts if path.is_relative_to(cache_folder()) else ()
    if len(parts) < 2 or parts[0] not in SCHEMES:
        return None
    scheme, bucket, *folders = parts
    bucket, _, encoded = bucket.partition("+")
    options = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    return Uri(scheme, bucket.partition("@")[0], "/".join(folders), options)


# ---------------------------------------------------------------- files of a run


def everything(name: PurePosixPath) -> bool:
    """All files of a run."""
    return True


def but_large(name: PurePosixPath) -> bool:
    """All files of a run but predictions and packaged models."""
    return not {"predictions", "export"} & set(name.parts[:-1])


def pull(folder: Path, wanted: Callable[[PurePosixPath], bool] = everything) -> None:
    """Bring a working copy up to date, but for its checkpoints (`rtk.runs.stored_checkpoints`).

    What has changed here and not there stays as it is. A copy of what is no longer there is deleted, unless
    something of it has not been sent yet.

    Args:
        folder: the working copy.
        wanted: whether a file is, by its name in the folder.

    Raises:
        StorageError: the storage cannot be reached.
    """
    store = store_of(folder)
    if store is None:
        return
    there = {name: list(entry) for name, entry in store.entries().items() if _is_shared(PurePosixPath(name))}
    if not there:
        _forget(folder)
        return
    OPENED.add(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _record(folder) as record:
        for name, stamp in there.items():
            file, known = folder / name, record.get(name, {})
            if wanted(PurePosixPath(name)) and _is_newer(stamp, file, known):
                entry = store.download(name, file)
                unsure = not _is_settled(entry, time.time_ns())
                record[name] = {"here": stamp_of(file), "there": list(entry), "unsure": unsure}
        for name in record.keys() - there.keys():
            (folder / name).unlink(missing_ok=True)
            del record[name]


def _forget(folder: Path) -> None:
    """Delete the copy of what has been deleted, which would be taken for a run; not what was never sent."""
    if not (folder / RECORD).exists():
        return
    with _record(folder) as record:
        unsent = [n for n in _files(folder) if record.get(n, {}).get("here") != stamp_of(folder / n)]
    if not unsent:
        shutil.rmtree(folder)


def push(folder: Path) -> int:
    """Send what has changed since it was last pulled or pushed, deletions too; returns the number of files.

    Raises:
        StorageError: the storage cannot be written to.
    """
    store, changed = store_of(folder), 0
    if store is None or not folder.is_dir():
        return changed
    with _record(folder) as record:
        for name in [*_files(folder), *(name for name in record if not (folder / name).exists())]:
            try:
                here = stamp_of(folder / name)
                if record.get(name, {}).get("here") == here:
                    continue
                record[name] = {"here": here, "there": list(store.upload(folder / name, name))}
            except FileNotFoundError:
                store.delete(name)
                record.pop(name, None)
            changed += 1
    return changed


def push_file(path: Path) -> None:
    """Send a file now, which nothing else keeps up to date: that of a checkpoint, or of what is fitted."""
    store = store_of(path.parent)
    if store is not None:
        written = store.upload(path, path.name).written
        os.utime(path, ns=(written, written))  # for `fetch` to see that it is the same


def remove_file(path: Path) -> None:
    """Delete a file that was sent by `push_file`, here and there."""
    path.unlink(missing_ok=True)
    store = store_of(path.parent)
    if store is not None:
        store.delete(path.name)


def fetch(place: str) -> Path:
    """A file on this machine, given its path or URI: it is downloaded unless it is here as it is there.

    Raises:
        StorageError, FileNotFoundError: it cannot be had.
    """
    path = local_folder(place)
    store = store_of(path.parent)
    if store is None:
        return path
    with FileLock(made(path.parent) / LOCK):
        entry = store.entry(path.name)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, "not there", place)
        is_same = path.exists() and stamp_of(path) == list(entry)
        if not is_same or not _is_settled(entry, path.stat().st_ctime_ns):
            store.download(path.name, path)
    return path


def pull_runs(output: Path, wanted: Callable[[PurePosixPath], bool] = everything) -> None:
    """Bring the working copies of all runs and sweeps of a folder up to date; as `pull`."""
    store = store_of(output)
    if store is None:
        return
    here = {path.parent.name for path in output.glob(f"[!.]*/{RECORD}")}  # some may be gone there
    for name in sorted(here.union(store.folders())):
        if not name.startswith("."):
            pull(output / name, wanted)


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder, wherever it lies."""
    store = store_of(folder)
    if store is not None:
        return sum(entry.size for entry in store.entries().values())
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def bring(place: str) -> Path:
    """A file or a folder on this machine, given its path or URI; raises as `pull`."""
    if not is_uri(place):
        return Path(place)
    try:
        return fetch(place)
    except FileNotFoundError:
        pull(folder := local_folder(place))
        return folder


# ---------------------------------------------------------------- what is shared


def _files(folder: Path) -> list[str]:
    """Names of the files that are pushed; those from which a run is known come last."""
    names = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    shared = filter(_is_shared, (PurePosixPath(name.as_posix()) for name in names))
    return [str(name) for name in sorted(shared, key=lambda name: len(name.parts) == 1)]


def _is_shared(name: PurePosixPath) -> bool:
    """Whether a file is pulled and pushed: no lock, no part, nothing of a checkpoint."""
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and not {*LEFT_OUT, CHECKPOINTS} & set(name.parts[:2])  # of a run, or of a sweep's


@contextmanager
def _record(folder: Path) -> Iterator[dict[str, Any]]:
    """What is known of each file, kept whatever happens; one process at a time."""
    with FileLock(folder / LOCK):
        path = folder / RECORD
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        try:
            yield record
        finally:
            write_json(path, record)


def _is_newer(there: Stamp, file: Path, known: Mapping[str, Any]) -> bool:
    """Whether an object may be another than when it was last the same as a file, or the file is gone."""
    if known.get("there") != there or not file.exists():
        return True
    return known.get("unsure", False) and known["here"] == stamp_of(file)


def _is_settled(entry: Entry, seen: int) -> bool:
    """Whether an object that is written once more cannot look the same: storage knows the time to the second.

    Args:
        entry: the object.
        seen: when it was read, by the clock of this machine.
    """
    return seen - entry.written > SETTLED_SECONDS * 10**9


def stamp_of(file: Path) -> Stamp:
    """Size and time of writing of a file."""
    about = file.stat()
    return [about.st_size, about.st_mtime_ns]


def made(folder: Path) -> Path:
    """A folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
