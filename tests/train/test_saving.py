"""A save that a crash or a failing disk interrupts leaves the old checkpoint or the new one, whole."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch

from rtk.runs.checkpoints import numbered, prune, resolve_checkpoint
from rtk.train.saving import SaveError, save_checkpoint
from tests.train.uniform_states import loaded, state_of


def save(alias: Path, step: int) -> None:
    save_checkpoint(alias, state_of(step), {"step": step, "world_size": 1, "num_classes": 2, "metrics": None})
    prune(alias.parent)


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    """What a sync to disk is good for cannot be seen without a loss of power: only that it is asked for."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Crash(BaseException):
    """The process is gone."""


class Disk:
    """Every operation that changes a disk, of which one fails: for good, as after SIGKILL, or once.

    Attributes:
        log: the operations that were asked for, in order.
    """

    def __init__(self, monkeypatch, fails_at: int, code: int | None) -> None:
        self.fails_at, self.code, self.log, self.patch = fails_at, code, [], monkeypatch
        for name in ("mkdir", "rmdir", "unlink", "rename", "replace", "chmod", "fsync"):
            self._wrap(os, name)
        self._wrap(safetensors.torch, "save_file", torn=True)
        self._wrap(Path, "write_text", torn=True)
        self._wrap(Path, "touch")

    def _wrap(self, module, name: str, torn: bool = False) -> None:
        real = getattr(module, name)

        def operation(*arguments, **options):
            self.log.append(f"{name} {[str(a)[-40:] for a in arguments if isinstance(a, str | Path)]}")
            if len(self.log) == self.fails_at or (self.code is None and len(self.log) > self.fails_at):
                if torn and len(self.log) == self.fails_at:
                    real(*arguments, **options)
                    path = next(a for a in arguments if isinstance(a, Path))
                    os.truncate(path, path.stat().st_size // 2)
                raise Crash if self.code is None else OSError(self.code, os.strerror(self.code), name)
            return real(*arguments, **options)

        self.patch.setattr(module, name, operation)


def interrupted(alias: Path, step: int, fails_at: int, code: int | None) -> Disk:
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk = Disk(monkeypatch, fails_at, code)
        with suppress(Crash, OSError):
            save(alias, step)
    return disk


def count_operations(folder: Path) -> int:
    folder.mkdir()
    for step in (1, 2):
        save(folder / "last", step)
    return len(interrupted(folder / "last", 3, 10**9, 0).log)


@pytest.mark.parametrize("code", [None, errno.ENOSPC, errno.EIO], ids=["killed", "full", "failing"])
def test_old_or_new_at_every_operation_and_the_next_save_succeeds(tmp_path, code):
    operations = count_operations(tmp_path / "whole")
    assert operations > 30
    seen = set()
    for at in range(1, operations + 1):
        alias = tmp_path / str(at) / "last"
        alias.parent.mkdir()
        for step in (1, 2):
            save(alias, step)
        disk = interrupted(alias, 3, at, code)
        assert len(disk.log) >= at
        seen.add(loaded(alias))
        save(alias, 4)
        assert loaded(alias) == 4
        assert len(numbered(alias.parent)) == 2
    assert seen == {2, 3}


def test_what_is_referred_to_is_on_the_disk_before_what_refers_to_it(tmp_path):
    save(tmp_path / "last", 1)
    log = interrupted(tmp_path / "last", 2, 10**9, 0).log
    descriptors = [number for number, entry in enumerate(log) if entry.startswith("fsync")]
    manifest = next(n for n, entry in enumerate(log) if "replace" in entry and "manifest.json" in entry)
    pointer = next(n for n, entry in enumerate(log) if "replace" in entry and "last.json" in entry)
    assert manifest < pointer
    # Three files and their folder, twice (as a rank's and before the manifest), and the manifest itself.
    assert sum(number < manifest for number in descriptors) == 6
    # The manifest's folder, the folder of the checkpoints, the pointer itself.
    assert sum(manifest < number < pointer for number in descriptors) == 3
    assert descriptors[-1] > pointer


def test_a_full_disk_is_named_and_leaves_nothing_behind(tmp_path, monkeypatch):
    save(tmp_path / "last", 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(SaveError, match=r"no space left: a shard takes 0.0 MB, .* are free.*-step-2"):
        save(tmp_path / "last", 2)
    assert [path.name for path in numbered(tmp_path)] == ["00001-step-1"]
    assert resolve_checkpoint(tmp_path / "last").name == "00001-step-1"
