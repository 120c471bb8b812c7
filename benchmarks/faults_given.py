"""What is given to a command: an input, its files, and the damage to YAML and Parquet that kinds share."""

from __future__ import annotations

import functools
import importlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from faults_damage_bytes import (
    JUNK,
    Draw,
    damaged,
    damaged_tree,
)
from hypothesis import strategies as st

Content = bytes | Callable[[Path], Any]  # of a file; what is no plain file makes itself


RUN = "runs/sample"


PACKAGE = f"{RUN}/export"


NO_RUNS = ("--output", "none")


@dataclass(frozen=True)
class Input:
    """An input: what of the whole samples it starts from, its files, and the commands that read it."""

    label: str
    commands: list[list[str]]
    files: Mapping[str, Content] = field(default_factory=dict)
    base: str = ""

    def write(self, samples: Path, folder: Path) -> None:
        """Write it to a folder."""
        if self.base:
            shutil.copytree(samples / self.base, folder / self.base)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                path.unlink()
            content(path) if callable(content) else path.write_bytes(content)


def call(words: list[str]) -> int:
    """Call a function `rtk.module:name` with paths: what reads files for a command that needs Ray."""
    module, _, name = words[0].partition(":")
    getattr(importlib.import_module(module), name)(*map(Path, words[1:]))
    return 0


@functools.cache
def sample(path: Path) -> bytes:
    """Bytes of a file of the samples."""
    return path.read_bytes()


def damaged_yaml(draw: Draw, text: str) -> bytes:
    """YAML whose tree or bytes are damaged, or with what other readers run or expand."""
    how = draw(st.sampled_from(["tree", "tree", "bytes", "tag", "anchor"]))
    if how == "bytes":
        return damaged(draw, text.encode())
    if how == "tree":
        tree = damaged_tree(draw, yaml.safe_load(text))
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace")
    lines = text.splitlines()
    at = draw(st.integers(0, len(lines)))
    tags = (
        "python/object/apply:os.system [touch x]",
        "python/name:os.system",
        "binary x",
        "timestamp 1",
        "set {a}",
    )
    more = f"x: !!{draw(st.sampled_from(tags))}" if how == "tag" else bomb(draw(st.sampled_from([2, 8, 40])))
    return "\n".join([*lines[:at], more, *lines[at:]]).encode()


def bomb(depth: int) -> str:
    """Anchors that stand for 9^depth words."""
    lines = ["a0: &a0 [x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)])


def damaged_parquet(draw: Draw, data: bytes) -> bytes:
    """Parquet with damaged bytes or metadata, or a column of another type."""
    how = draw(st.sampled_from(["bytes", "column", "column", "drop", "metadata", "rows"]))
    if how == "bytes":
        return damaged(draw, data)
    table = pq.read_table(io.BytesIO(data))
    name = draw(st.sampled_from(table.column_names))
    at = table.column_names.index(name)
    if how == "column":
        values = [draw(JUNK)] * len(table)
        try:
            column = pa.array(values)
        except (pa.ArrowException, OverflowError, ValueError):
            column = pa.nulls(len(table))
        table = table.set_column(at, name, column)
    elif how == "drop":
        table = table.drop_columns([name])
    elif how == "rows":
        table = table.slice(0, draw(st.integers(0, 3)))
    else:
        keys = list(table.schema.metadata or {b"rtk": b""})
        text = json.dumps(draw(JUNK)) if draw(st.booleans()) else draw(st.text(max_size=9))
        table = table.replace_schema_metadata({draw(st.sampled_from(keys)): text.encode("utf-8", "replace")})
    stream = io.BytesIO()
    try:
        pq.write_table(table, stream)
    except pa.ArrowException:  # such as an empty struct, which Parquet does not know
        return damaged(draw, data)
    return stream.getvalue()


def tar(members: Mapping[str, bytes]) -> bytes:
    """A compressed archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()
