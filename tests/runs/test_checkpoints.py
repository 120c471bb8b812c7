"""Numbered checkpoints, and what points to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtk.runs.checkpoints import (
    MANIFEST,
    STATE,
    CheckpointError,
    forget,
    has_checkpoint,
    new_folder,
    numbered,
    point_to,
    prune,
    publish,
    read_manifest,
    resolve_checkpoint,
    seal,
)


def save(alias: Path, step: int) -> Path:
    folder = new_folder(alias, step)
    (folder / STATE).write_text(str(step))
    publish(alias, folder, {STATE: seal(folder / STATE)}, {"step": step, "world_size": 2})
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_there_once_its_manifest_is(tmp_path):
    alias = tmp_path / "last"
    folder = new_folder(alias, 8)
    (folder / STATE).write_text("8")
    assert not has_checkpoint(alias)
    assert numbered(tmp_path) == []
    publish(alias, folder, {STATE: seal(folder / STATE)}, {"step": 8})
    assert resolve_checkpoint(alias) == folder
    manifest = read_manifest(folder)
    # sha256 of "8"
    digest = "2c624232cdd221771294dfbb310aca000a0df6ac8b66b696d90ef06fdefb64a3"
    assert manifest["files"] == {STATE: {"bytes": 1, "sha256": digest}}
    assert manifest["step"] == 8


def test_numbers_go_up_whatever_the_step(tmp_path):
    for step in (8, 16, 4):
        save(tmp_path / "last", step)
    assert names(tmp_path) == ["00001-step-8", "00002-step-16", "00003-step-4", "last.json"]


def test_what_was_never_finished_is_removed_by_the_next(tmp_path):
    save(tmp_path / "last", 8)
    new_folder(tmp_path / "last", 16)
    save(tmp_path / "last", 16)
    assert names(tmp_path) == ["00001-step-8", "00003-step-16", "last.json"]


def test_the_newest_and_what_is_pointed_to_stay(tmp_path):
    last, best = tmp_path / "last", tmp_path / "best"
    first = save(last, 8)
    point_to(best, first)
    for step in (16, 24, 32):
        save(last, step)
        prune(tmp_path)
    assert names(tmp_path) == ["00001-step-8", "00003-step-24", "00004-step-32", "best.json", "last.json"]
    assert [path.name for path in prune(tmp_path, kept=0)] == ["00003-step-24"]
    forget(best)
    assert [path.name for path in prune(tmp_path, kept=0)] == ["00001-step-8"]
    assert resolve_checkpoint(last).name == "00004-step-32"


def test_folders_of_earlier_versions_are_read_until_there_are_others(tmp_path):
    last = tmp_path / "last"
    last.mkdir()
    (last / STATE).write_text("4")
    assert resolve_checkpoint(last) == last
    save(last, 8)
    assert resolve_checkpoint(last).name == "00001-step-8"
    assert prune(tmp_path) == []  # there are to be two
    save(last, 16)
    assert prune(tmp_path) == [last]


def test_a_missing_one_is_answered_with_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"best: no checkpoint there$"):
        resolve_checkpoint(tmp_path / "best")
    folder = save(tmp_path / "last", 8)
    with pytest.raises(CheckpointError, match=r"best: no checkpoint there; there is last$"):
        resolve_checkpoint(tmp_path / "best")
    (folder / MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=r"last.json: names 00001-step-8, which is not there"):
        resolve_checkpoint(tmp_path / "last")
