"""A run that is started again wherever its process, or Ray, is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from rtk.cli import main
from rtk.runs.checkpoint_faults import faults_of
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.folder import RunFolder

RTK = [sys.executable, "-m", "rtk.cli"]
SMALL = ["model.width=4", "data.train_rows=160", "train.batch_size=32", "train.threads=1", "train.workers=1"]


def wait_for(what, process, seconds=120):
    """The first answer of `what` that is true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_killed_driver_and_killed_ray_end_as_if_nothing_had_been(tmp_path):
    command = [
        *RTK,
        "train",
        "digits_ce",
        *SMALL,
        "train.duration=400ep",
        f"output={tmp_path}",
        "--name",
        "k",
    ]
    keeper = subprocess.Popen([*command, "--keep-alive"], stderr=subprocess.PIPE, text=True)
    run, lines = RunFolder(tmp_path / "k"), iter(keeper.stderr.readline, "")
    me = psutil.Process(keeper.pid)

    def daemons(driver) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [c for c in driver.children(recursive=True) if "/raylet/raylet" in " ".join(c.cmdline())]
        return []

    try:
        (driver,) = wait_for(me.children, keeper)
        wait_for(lambda: (run.read_json("progress.json") or {}).get("step"), keeper)
        driver.kill()
        assert any(line.startswith("keep-alive: killed by SIGKILL after step ") for line in lines)
        (driver,) = wait_for(lambda: [c for c in me.children() if c != driver], keeper)
        (daemon, *_) = wait_for(lambda: daemons(driver), keeper)
        assert any("training epoch" in line for line in lines)
        wait_for(lambda: has_checkpoint(run.checkpoints / "last"), keeper)
        daemon.kill()
        assert any(line.startswith("keep-alive: ") and "going on" in line for line in lines)
        keeper.send_signal(signal.SIGTERM)  # at a moment when nothing trains
        keeper.communicate(timeout=120)
    finally:
        keeper.kill()
    assert keeper.returncode == 143
    assert faults_of(run.checkpoints / "last") == []
    rows = [json.dumps([row["step"], row["key"]]) for row in run.read_metrics()]
    assert len(rows) == len(set(rows))


def test_an_error_ends_it(tmp_path, capfd):
    command = ["train", "digits_ce", f"output={tmp_path}", "--keep-alive"]
    assert main([*command, "data.train=nowhere.parquet"]) == 2
    assert "data.train: " in capfd.readouterr().err
    assert main([*command, "--dry-run"]) == 2
    assert "--keep-alive: cannot be combined with" in capfd.readouterr().err
