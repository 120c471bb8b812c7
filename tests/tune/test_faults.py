"""kill -9 of a trial's process, of the driver and of a worker: the sweep's table is whole in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import Sweep
from rtk.runtime.fork_server import SHARED
from rtk.train.checkpoint import read_state
from rtk.tune.study import DONE, open_study

pytestmark = pytest.mark.slow

RTK = str(Path(sys.executable).parent / "rtk")
SPACE = {
    "objectives": {"val/ds_aurc_near": "min"},
    "trials": 4,
    "concurrent": 2,
    "scheduler": {"name": "none"},
    "fixed": {
        "data.train_rows": 256,
        "model.width": 4,
        "train.duration": "6ep",
        "train.threads": 1,
        "train.workers": 1,
    },
    "space": {"optimizer.lr": {"loguniform": [0.01, 0.1]}},
}
TRIAL, WORKER = "ray::ImplicitFunc", "ray::RayTrainWorker"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start `rtk sweep` in a process of its own; what is left of it is ended with the test."""
    started = []
    monkeypatch.delenv(SHARED, raising=False)  # its processes are its children, as a user's

    def start(*arguments: str, **changes):
        path = tmp_path / "space.yaml"
        path.write_text(yaml.safe_dump({**SPACE, **changes}, sort_keys=False))
        new = [str(path), "digits_ce", f"output={tmp_path}", "--name", "s"]
        command = [RTK, "sweep", *(arguments or new)]
        with (tmp_path / "log").open("a") as log:
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()


def wait_for(condition, process, log: Path, seconds: float = 300):
    """What `condition` gives, once that is true; the process must go on until then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    return found


def epochs(run: RunFolder) -> list[int]:
    return [row["step"] for row in run.read_metrics() if row["key"] == "val/accuracy"]


def with_title(process, title: str) -> list[psutil.Process]:
    return [child for child in children(process) if child.cmdline()[:1] and title in child.cmdline()[0]]


def children(process) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            child.cmdline()
            found.append(child)
        except psutil.Error:  # ended meanwhile
            continue
    return found


def wait_until_gone(processes: list[psutil.Process], seconds: float = 60) -> None:
    def is_alive(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + seconds
    while alive := [process for process in processes if is_alive(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


def check_whole(sweep: Sweep, trials: int) -> None:
    """Every trial once, complete, with each row of metrics once."""
    ended = open_study(sweep.path, sweep.space()).trials
    assert [trial.number for trial in ended] == list(range(trials))
    assert all(trial.state in DONE and trial.values for trial in ended)
    folders = sorted(path.name for path in sweep.path.glob("trial-*"))
    assert folders == [f"trial-{number:04d}" for number in range(trials)]
    for trial in ended:
        rows = RunFolder(sweep.path / f"trial-{trial.number:04d}").read_metrics()
        assert max(Counter((row["step"], row["key"]) for row in rows).values()) == 1
        last = [row["value"] for row in rows if row["key"] == "val/ds_aurc_near"][-1]
        assert trial.values == [last]


def test_killed_trial_and_killed_driver(start, tmp_path):
    log, run = tmp_path / "log", RunFolder(tmp_path / "s" / "trial-0001")
    process = start()
    wait_for(lambda: len(epochs(run)) >= 2, process, log)
    wait_for(lambda: with_title(process, TRIAL), process, log)[0].kill()
    sweep = Sweep.open(tmp_path / "s")

    def some_ended():
        return [t for t in open_study(sweep.path, sweep.space()).trials if t.state in DONE]

    wait_for(some_ended, process, log)
    wait_for(lambda: epochs(RunFolder(sweep.path / "trial-0002")), process, log)
    trials = with_title(process, TRIAL)
    os.kill(process.pid, signal.SIGKILL)
    wait_until_gone(trials)
    killed = time.time()  # a trial's process lives on for a moment, and may write a checkpoint
    before = {t.number: t.datetime_complete for t in some_ended()}
    assert 0 < len(before) < 4
    folders = {n: sweep.path / f"trial-{n:04d}" for n in range(4) if n not in before}
    lasts = {n: path / "checkpoints" / "last" for n, path in folders.items()}
    saved = {n: read_state(last)["step"] for n, last in lasts.items() if has_checkpoint(last)}

    again = start("--resume", str(sweep.path), "--json")
    assert again.wait(300) == 0, log.read_text()
    check_whole(sweep, 4)
    after = open_study(sweep.path, sweep.space()).trials
    assert all(after[number].datetime_complete == when for number, when in before.items())
    # What was running went on from its last checkpoint.
    assert saved
    for number, step in saved.items():
        kept = [row for row in RunFolder(folders[number]).read_metrics() if row["step"] <= step]
        assert kept
        assert all(row["time"] < killed for row in kept)


def test_killed_worker_of_a_trial_with_two(start, tmp_path):
    log, run = tmp_path / "log", RunFolder(tmp_path / "s" / "trial-0000")
    process = start(trials=1, fixed={**SPACE["fixed"], "train.workers": 2, "train.zero_stage": 2})
    wait_for(lambda: len(epochs(run)) >= 2, process, log)
    with_title(process, WORKER)[0].kill()
    assert process.wait(300) == 0, log.read_text()
    check_whole(Sweep.open(tmp_path / "s"), 1)
