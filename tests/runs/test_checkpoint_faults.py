"""Damaged checkpoints: found before they are loaded, and the newest whole one is used instead."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from rtk.runs.checkpoint_faults import check_whole, faults, faults_of, mend
from rtk.runs.checkpoints import (
    MANIFEST,
    STATE,
    CheckpointError,
    new_folder,
    point_to,
    publish,
    resolve_checkpoint,
    seal,
)

FILES = ("shard-00000.safetensors", "shard-00001.safetensors", "common.safetensors", STATE)


def save(alias: Path, step: int) -> Path:
    """A checkpoint whose files have the same lengths at every step, as those of a run have."""
    folder, draw = new_folder(alias, step), random.Random(step)
    for name in FILES:
        (folder / name).write_bytes(draw.randbytes(300 + len(name)))
    publish(alias, folder, {name: seal(folder / name) for name in FILES}, {"step": step})
    return folder


@pytest.fixture
def last(tmp_path, monkeypatch) -> Path:
    """A run's last of two checkpoints, of the steps 8 and 16."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a thousand of them take their time
    for step in (8, 16):
        save(tmp_path / "last", step)
    return tmp_path / "last"


def flip_a_bit(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def damage(folder: Path, older: Path, draw: random.Random) -> str:
    """Do something to a checkpoint that disks, people and half-finished copies do to it; says what."""
    name = draw.choice((*FILES, MANIFEST))
    path = folder / name
    kind = draw.choice(["bit", "zeroed", "cut", "empty", "gone", "older", "other rank"])
    if kind == "bit":
        flip_a_bit(path, draw)
    elif kind == "zeroed":
        path.write_bytes(bytes(path.stat().st_size))
    elif kind in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: 0 if kind == "empty" else draw.randrange(path.stat().st_size)])
    elif kind == "gone":
        path.unlink()
    elif kind == "older":
        shutil.copy(older / name, path)
    else:
        shutil.copy(folder / FILES[0], folder / FILES[1])
    return f"{kind} {name}"


@pytest.mark.parametrize("part", range(2))
def test_every_damage_is_found_and_the_one_before_is_used(last, tmp_path, part):
    folder, older = resolve_checkpoint(last), last.with_name("00001-step-8")
    whole = {path: path.read_bytes() for path in (*folder.iterdir(), last.with_name("last.json"))}
    draw = random.Random(part)
    for _ in range(60):
        what = damage(folder, older, draw)
        assert faults_of(last), what
        said = mend(last)
        assert said is not None, what
        assert "going on from 00001-step-8" in said
        assert folder.name in said
        assert resolve_checkpoint(last) == older
        assert mend(last) is None
        for path, content in whole.items():
            path.write_bytes(content)
        assert faults_of(last) == []


def test_what_is_damaged_is_named(last):
    folder = resolve_checkpoint(last)
    (folder / FILES[0]).unlink()
    (folder / FILES[1]).write_bytes(b"short")
    flip_a_bit(folder / FILES[2], random.Random(0))
    assert faults(folder) == [
        "shard-00000.safetensors: missing",
        "shard-00001.safetensors: 5 bytes, wanted 323",
        "common.safetensors: not what was written, by its SHA-256",
    ]
    assert len(faults(folder, contents=False)) == 2
    with pytest.raises(CheckpointError, match=r"damaged: shard-00000.safetensors: missing \(and 2 more\)"):
        check_whole(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"checkpoint": "../other", "manifest": "x"}', '{"checkpoint": "00009-step-9"}']
)
def test_a_damaged_pointer_is_found(last, text):
    last.with_name("last.json").write_text(text)
    with pytest.raises(CheckpointError, match="last.json: damaged"):
        resolve_checkpoint(last)
    assert "going on from 00002-step-16" in mend(last)


def test_a_pointer_to_another_runs_checkpoint_is_found(last, tmp_path):
    """A folder of the same name, whole, but not the one that was pointed to."""
    (tmp_path / "other").mkdir()
    for step in (9, 16):
        other = save(tmp_path / "other" / "last", step)
    folder = resolve_checkpoint(last)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "saved": "another day"}, indent=1))
    assert faults(folder) == []
    assert "is not the one that last.json was written for" in faults_of(last)[0]


def test_a_lost_pointer_is_no_new_beginning(last):
    last.with_name("last.json").unlink()
    assert "last.json: missing; going on from 00002-step-16" in mend(last)
    assert resolve_checkpoint(last).name == "00002-step-16"


def test_none_is_left(last):
    for folder in (last.with_name("00001-step-8"), last.with_name("00002-step-16")):
        (folder / STATE).unlink()
    with pytest.raises(CheckpointError, match=r"00002-step-16/state.json: missing; no whole checkpoint"):
        mend(last)


def test_files_beside_those_of_the_manifest_change_nothing(last):
    folder = resolve_checkpoint(last)
    (folder / "notes.txt").write_text("mine")
    assert mend(last) is None
    point_to(last.with_name("best"), folder)
    assert faults_of(last.with_name("best")) == []
