"""Raw images where prepared data is wanted: a copy in the cache, made once for each content."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock

from rtk.data.image import ImageInfo
from rtk.data.image_files import read_tree, readable_path
from rtk.data.prepare.parquet_writer import ImageRow, write_parquet
from rtk.data.prepare.records import Record, Source
from rtk.data.prepare.sources import OWN_KINDS, SourceKind, find_kind, open_source
from rtk.data.sets.builtin import PREFIX
from rtk.data.sets.dataset import CLASSES_FILE, open_dataset
from rtk.runs.atomic import write_json
from rtk.runs.working_copy import cache_folder
from rtk.runtime.console import complain
from rtk.runtime.environment import available_cpus

VERSION = 1  # raise it when other rows would be written, so that cached copies are made anew
# Broken images stay in, for whoever reads the copy names or skips them; so headers are not looked at here.
_NOT_LOOKED_AT = ImageInfo(0, 0, "unknown", "unknown")
# Of a set whose classes do not matter: every image, whatever its folders mean.
_NO_CLASSES = {"split_folders": (), "classes_from": "none"}


def prepared(path: str, *, labelled: bool) -> str:
    """Path of prepared data: the path itself, or that of a cached copy where it holds raw images.

    Raw are a local folder of images, an archive, or Parquet of others: all that `rtk data prepare` takes.
    The copy is known by the content of the files, so that it is found again after a move, and not after a
    change.

    Args:
        path: as a config names data sets.
        labelled: whether classes matter; else every image below a folder is taken, as of no class.

    Raises:
        ValueError: the classes are unclear, or there are several splits; the message names the way out.
    """
    source = Path(path)
    if path.startswith(PREFIX) or "://" in path or not source.exists() or _is_prepared(path):
        return path
    try:
        kind = find_kind(source)
    except ValueError:
        return path  # who opens it says what is wrong
    if kind not in OWN_KINDS:
        return path  # what a user's file makes of the same content may change
    folder = cache_folder() / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(source, kind, labelled)
    with FileLock(folder / f".{key}.lock"):
        found = next(folder.glob(f"*-{key}"), None)
        return str(found or _prepare(source, kind, labelled, folder / f"{_file_name(source)}-{key}"))


def _is_prepared(path: str) -> bool:
    try:
        open_dataset(path, need_classes=False)
    except ValueError:
        return False
    return True


def _key(source: Path, kind: SourceKind, labelled: bool) -> str:
    """Hash of the names and contents of what would be read, and of how."""
    total = hashlib.sha256(json.dumps([VERSION, kind.name, labelled]).encode())
    files, beside = [source], source.parent / CLASSES_FILE
    if source.is_file() and labelled and beside.is_file():
        total.update(beside.read_bytes())
    if source.is_dir():
        tree = read_tree(source)
        files = sorted([*tree.all_images(), *(() if kind.name == "image_folder" else tree.all_others())])
    with ThreadPoolExecutor(available_cpus()) as pool:
        for file, digest in zip(files, pool.map(_digest, files), strict=True):
            name = readable_path(file.relative_to(source))
            total.update(f"{len(name)} {name} {digest}".encode())
    return total.hexdigest()[:16]


def _digest(file: Path) -> str:
    if not file.is_file():  # a pipe or a device, which would be read without end
        return "no regular file"
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return f"{error.strerror}"


def _prepare(source: Path, kind: SourceKind, labelled: bool, folder: Path) -> Path:
    options: dict[str, Any] = {name: _NO_CLASSES[name] for name in kind.options if name in _NO_CLASSES}
    opened = open_source(source, **({} if labelled else options))
    if labelled and len(opened.splits) > 1:
        names = ", ".join(split.name for split in opened.splits)
        raise ValueError(
            f"{source}: holds several sets ({names}), wanted one of them "
            f"(rtk data prepare {source} --out DIR makes a file of each)"
        )
    for line in opened.layout if labelled else ():
        complain(line)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    count = write_parquet(partial, "images.parquet", _rows(opened), len(opened.classes), True).rows
    write_json(partial / CLASSES_FILE, {"classes": opened.classes})
    partial.rename(folder)
    complain(f"{source}: {count} images ({opened.kind}), kept as {folder}")
    return folder


def _rows(source: Source) -> Iterator[ImageRow]:
    number = 0
    for split in source.splits:
        for record in split.read():
            sample_id = number if record.sample_id is None else record.sample_id
            yield ImageRow(_bytes(record), record.label, sample_id, record.path, _NOT_LOOKED_AT)
            number += 1


def _bytes(record: Record) -> bytes:
    try:
        return record.encoded()
    except OSError:  # a link to nowhere, say: an image that cannot be decoded
        return b""


def _file_name(source: Path) -> str:
    return re.sub(r"[^\w.-]", "_", source.absolute().name) or "images"
