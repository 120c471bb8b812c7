"""Checkpoints of runs on object storage: what one machine saves, another loads, or what was before it."""

from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from rtk.runs.checkpoint_faults import faults, mend
from rtk.runs.checkpoints import CheckpointError, has_checkpoint, numbered, prune
from rtk.runs.object_store import ObjectStore, StorageError
from rtk.runs.stored_checkpoints import pull_checkpoints, remove_folder
from rtk.runs.working_copy import local_folder, push_file, store_of
from rtk.train.checkpoint import load_checkpoint
from rtk.train.saving import SaveError, save_checkpoint
from tests.object_storage import in_folder
from tests.train.uniform_states import loaded, state_of

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def machine(bucket, monkeypatch, tmp_path):
    """The last checkpoint of a run, on the machine of a name, which has looked what there is."""

    def on(name: str):
        monkeypatch.setenv("RTK_CACHE", str(tmp_path / name))
        last = local_folder(in_folder(bucket, "runs/a")) / "checkpoints" / "last"
        pull_checkpoints(last.parent)
        return last

    return on


def save(last, step: int) -> None:
    save_checkpoint(last, state_of(step), {"step": step, "world_size": 1})


def test_what_one_machine_saves_another_loads_and_goes_on_from(machine):
    save(machine("here"), 1)
    last = machine("there")
    assert loaded(last) == 1
    save(last, 2)
    last = machine("here")
    assert loaded(last) == 2
    assert [folder.name for folder in numbered(last.parent)] == ["00001-step-1", "00002-step-2"]


def test_a_run_of_the_same_name_is_not_mixed_with_one_that_was_deleted(machine):
    """Its checkpoints have the same names and lengths."""
    save(machine("here"), 1)
    there = machine("there")
    assert loaded(there) == 1
    elsewhere = machine("elsewhere")
    remove_folder(elsewhere.parent)
    time.sleep(1.1)  # storage knows times to the second
    save_checkpoint(elsewhere, state_of(5), {"step": 1, "world_size": 1})
    there = machine("there")
    state = state_of(-1)
    with torch.no_grad():
        load_checkpoint(there, state)
    assert all(bool((part == 5).all()) for part in state.engine.module.parameters())


def test_looking_at_lengths_downloads_nothing(machine):
    save(machine("here"), 1)
    last = machine("there")
    folder = last.parent / "00001-step-1"
    assert faults(folder, contents=False) == []
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    store_of(folder).delete("common.safetensors")
    assert faults(folder, contents=False) == ["common.safetensors: missing"]


def test_what_is_pruned_here_is_gone_there(machine):
    last = machine("here")
    for step in (1, 2, 3):
        save(last, step)
    machine("there")
    last = machine("here")
    prune(last.parent)
    last = machine("there")
    assert [folder.name for folder in numbered(last.parent)] == ["00002-step-2", "00003-step-3"]
    assert not any(name.startswith("00001") for name in store_of(last.parent).entries())


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_process_killed_at_any_upload_leaves_the_old_or_the_new_one(machine, monkeypatch, is_done):
    """Also to a machine that has seen nothing of it, which then goes on."""
    real, ends = ObjectStore.upload, []
    for point in count():
        calls = count()

        def upload(store, file, name, calls=calls, point=point):
            is_last = next(calls) == point
            if is_last and not is_done:
                raise Killed
            entry = real(store, file, name)
            if is_last:
                raise Killed
            return entry

        before = 10 * point + 1
        save(machine(f"{point}"), before)
        monkeypatch.setattr(ObjectStore, "upload", upload)
        try:
            save(machine(f"{point}"), before + 1)
        except Killed:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(ObjectStore, "upload", real)
        last = machine(f"after {point}")
        ends.append(loaded(last) - before)
        save(last, before + 2)
        assert loaded(machine(f"{point}")) == before + 2
    assert len(ends) == 5  # shard, common, state, manifest, pointer
    assert ends == [0, 0, 0, 0, int(is_done)]


@pytest.mark.parametrize("name", ["shard-00000.safetensors", "state.json", "manifest.json"])
def test_what_is_damaged_there_is_found_and_the_one_before_is_taken(machine, tmp_path, name):
    last = machine("here")
    save(last, 1)
    save(last, 2)
    damaged = last.parent / "00002-step-2" / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    push_file(damaged)
    last = machine("there")
    said = mend(last)
    assert said is not None
    assert f"00002-step-2/{name}" in said
    assert "going on from 00001-step-1" in said
    assert loaded(machine("elsewhere")) == 1  # what was mended is so for all


def test_nothing_whole_is_an_error(machine):
    last = machine("here")
    save(last, 1)
    for name in store_of(last.parent).entries():
        if name.endswith("common.safetensors"):
            store_of(last.parent).delete(name)
    last = machine("there")
    assert has_checkpoint(last)
    with pytest.raises(CheckpointError, match=r"common.safetensors: missing; no whole checkpoint is left"):
        mend(last)


def test_an_outage_is_a_save_that_failed(machine, monkeypatch):
    last = machine("here")
    save(last, 1)

    def fails(store, file, name):
        raise StorageError("s3://bucket/runs/a: no answer")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStore, "upload", fails)
        with pytest.raises(SaveError, match="no answer"):
            save(last, 2)
    assert loaded(machine("there")) == 1
    save(machine("here"), 3)
    assert loaded(machine("there")) == 3
