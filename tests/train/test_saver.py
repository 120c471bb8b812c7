"""Checkpoints are written while training goes on, one at a time, of the state as it was."""

from __future__ import annotations

import os
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from rtk.config import ConfigError, load_config
from rtk.config.sections import interval_seconds
from rtk.runs import file_records
from rtk.runs.checkpoint_faults import faults
from rtk.runs.checkpoints import has_checkpoint, numbered, read_manifest
from rtk.runs.folder import RunFolder
from rtk.runs.object_store import ObjectStore, StorageError
from rtk.runs.working_copy import push
from rtk.train.job import TrainingJob
from rtk.train.progress import ProgressDisplay
from rtk.train.saver import Saver
from rtk.train.saving import SaveError
from tests.object_storage import in_folder
from tests.train.uniform_states import loaded, state_of

CPU = torch.device("cpu")


@pytest.fixture
def job_with(tmp_path):
    """A job of 10 steps an epoch and 10 epochs, with changes of its config."""

    def make(*overrides: str, **options) -> TrainingJob:
        config = load_config("digits_ce", [f"output={tmp_path}", "train.duration=10ep", *overrides])
        run = RunFolder.create(config)
        return TrainingJob(run.place, run.config_tree(), 2, 10 * config.train.batch_size, False, **options)

    return make


class SlowDisk:
    """Syncs that end when they are let go."""

    def __init__(self, monkeypatch) -> None:
        self.go, self.asked = threading.Event(), threading.Event()
        real = os.fsync

        def fsync(descriptor: int) -> None:
            self.asked.set()
            assert self.go.wait(60)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)


def test_training_goes_on_meanwhile_and_the_checkpoint_is_of_before(job_with, monkeypatch):
    job, disk = job_with(), SlowDisk(monkeypatch)
    last = job.run.checkpoints / "last"
    state = state_of(7)
    with Saver(job) as saver:
        saver.save(state, 7, None, is_final=False)
        assert disk.asked.wait(60)
        assert not has_checkpoint(last)
        with torch.no_grad():  # the next step
            for tensor in (*state.engine.module.parameters(), *state.engine.module.buffers()):
                tensor.fill_(8)
        for kept in state.engine.optimizer.state.values():
            kept["momentum_buffer"].fill_(8)
        disk.go.set()
    assert loaded(last) == 7
    times = {row["key"]: row["value"] for row in job.run.read_metrics()}
    assert times.keys() == {"system/checkpoint_seconds", "system/checkpoint_stall_seconds"}
    assert 0 < times["system/checkpoint_stall_seconds"] < times["system/checkpoint_seconds"]


@pytest.mark.parametrize("kept", [2, 3])
def test_as_many_checkpoints_stay_as_are_wanted(job_with, kept):
    job = job_with(f"train.checkpoints_kept={kept}")
    with Saver(job) as saver:
        for step in range(1, 6):
            saver.save(state_of(step), step, None, is_final=step == 5)
    steps = [int(path.name.rpartition("-")[2]) for path in numbered(job.run.checkpoints)]
    assert steps == [3, 4, 5][-kept:]


@pytest.mark.parametrize("verify", ["all", "sampled"])
def test_a_run_says_how_its_files_are_to_be_verified(job_with, monkeypatch, verify):
    monkeypatch.setattr(file_records, "BLOCK", 16)
    job = job_with(f"train.verify={verify}")
    with Saver(job) as saver:
        saver.save(state_of(1), 1, None, is_final=True)
    (folder,) = numbered(job.run.checkpoints)
    record = read_manifest(folder)["files"]["shard-00000.safetensors"]
    assert ("blocks" in record) == (verify == "sampled")
    assert faults(folder) == faults(folder, every_byte=True) == []
    shard = folder / "shard-00000.safetensors"
    shard.write_bytes(bytes(shard.stat().st_size))
    assert ("CRC-32" if verify == "sampled" else "SHA-256") in faults(folder)[0]
    assert "SHA-256" in faults(folder, every_byte=True)[0]


def test_the_next_save_waits_for_the_one_before(job_with, monkeypatch):
    job, disk = job_with(), SlowDisk(monkeypatch)
    last = job.run.checkpoints / "last"
    with Saver(job) as saver:
        saver.save(state_of(1), 1, None, is_final=False)
        assert disk.asked.wait(60)
        second = threading.Thread(target=saver.save, args=(state_of(2), 2, None, False))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        disk.go.set()
        second.join(60)
        saver.save(state_of(3), 3, None, is_final=True)
        assert loaded(last) == 3
    assert [path.name for path in numbered(job.run.checkpoints)] == ["00002-step-2", "00003-step-3"]


@pytest.mark.parametrize("how", ["in the foreground", "for others to go on from"])
def test_a_checkpoint_that_is_waited_for_is_there_at_once(job_with, how):
    alone = how == "in the foreground"
    job = (
        job_with("train.background_saves=false", shares_checkpoints=False)
        if alone
        else job_with(shares_checkpoints=True)
    )
    with Saver(job) as saver:
        saver.save(state_of(4), 4, {"val/accuracy": 0.5}, is_final=False)
        assert loaded(job.run.checkpoints / "last") == 4
        assert job.run.read_json("best.json") == {"step": 4, "val/accuracy": 0.5}


def test_an_error_in_the_background_ends_training_at_the_next_save(job_with, monkeypatch):
    job = job_with()
    saver = Saver(job)
    monkeypatch.setattr("rtk.train.saver.keep_best", lambda run, select: 1 / 0)
    saver.save(state_of(1), 1, None, is_final=False)
    with pytest.raises(ZeroDivisionError):
        saver.save(state_of(2), 2, None, is_final=False)


def test_training_goes_on_past_a_full_disk_and_says_so(job_with, monkeypatch, capsys):
    job = job_with()
    display = ProgressDisplay(job.run)
    with Saver(job) as saver:
        saver.save(state_of(1), 1, None, is_final=False)
        saver.wait()
        monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
        saver.save(state_of(2), 2, None, is_final=False)
        saver.wait()
        assert loaded(job.run.checkpoints / "last") == 1
        capsys.readouterr()
        for _ in range(2):
            display.refresh()
        shown = capsys.readouterr().err
        assert shown.count("no checkpoint of step 2 could be written: [Errno 28] no space left") == 1
        with pytest.raises(SaveError):
            saver.save(state_of(3), 3, None, is_final=True)


@pytest.mark.parametrize("fails", [False, True])
def test_on_storage_metrics_are_sent_before_the_checkpoint_that_they_led_to(
    bucket, job_with, monkeypatch, fails
):
    """Else a driver's machine that is lost would take with it what the next one does not measure again."""
    job, sent, real = job_with(f"output={in_folder(bucket, 'runs')}"), [], ObjectStore.upload

    def upload(store, file, name):
        if fails and name == "metrics.csv":
            raise StorageError("no answer")
        sent.append(name)
        return real(store, file, name)

    push(job.run.path)  # as the driver does when it starts
    monkeypatch.setattr(ObjectStore, "upload", upload)
    job.run.append_metrics(10, 1, {"val/accuracy": 0.5})
    with pytest.raises(SaveError, match="no answer") if fails else nullcontext(), Saver(job) as saver:
        saver.save(state_of(10), 10, {"val/accuracy": 0.5}, is_final=True)
    assert ("last.json" in sent) != fails
    assert fails or sent.index("metrics.csv") < sent.index("shard-00000.safetensors") < sent.index(
        "last.json"
    )


def test_by_epochs(job_with):
    saver = Saver(job_with("train.checkpoint_every=3"))
    due = [epoch for epoch in range(1, 11) if saver.is_due(10 * epoch, {}, CPU)]
    assert due == [3, 6, 9, 10]
    assert not saver.is_overdue()


def test_by_time_and_the_best_in_any_case(job_with, monkeypatch):
    job, clock = job_with("train.checkpoint_every=10min"), SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    with Saver(job) as saver:
        assert saver.is_due(10, {"val/accuracy": 0.5}, CPU)  # there is no best one yet
        saver.save(state_of(10), 10, {"val/accuracy": 0.5}, is_final=False)
        saver.wait()
        assert not saver.is_due(20, {"val/accuracy": 0.4}, CPU)
        assert saver.is_due(20, {"val/accuracy": 0.6}, CPU)
        clock.now += 599
        assert not saver.is_overdue()
        clock.now += 1
        assert saver.is_overdue()
        assert saver.is_due(20, {"val/accuracy": 0.4}, CPU)
        saver.save(state_of(25), 25, None, is_final=False)
        assert not saver.is_overdue()
    assert loaded(job.run.checkpoints / "best") == 10
    assert loaded(job.run.checkpoints / "last") == 25


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("1.5min", 90), ("2h", 7200), ("3", None)])
def test_intervals(text, seconds):
    every = load_config("digits_ce", [f"train.checkpoint_every={text}"]).train.checkpoint_every
    assert interval_seconds(every) == seconds
    assert isinstance(every, int) == (seconds is None)


@pytest.mark.parametrize("text", ["0", "0min", "10 min", "10m", "-5min", "2.5", "true", "10ep"])
def test_what_is_no_interval(text):
    with pytest.raises(ConfigError, match=r"train.checkpoint_every: got .*10min"):
        load_config("digits_ce", [f"train.checkpoint_every={text}"])
