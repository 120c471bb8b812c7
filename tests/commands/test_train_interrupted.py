"""A training that is interrupted, as a process: its exit code, its last checkpoint, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rtk.cli import main
from rtk.runs.folder import RunFolder
from rtk.train.checkpoint import read_state

RTK = [str(Path(sys.executable).parent / "rtk")]
SMALL = ["model.width=4", "data.train_rows=256", "train.threads=1"]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_writes_a_checkpoint_from_which_the_run_resumes(tmp_path, ray_session, number, code):
    command = [*RTK, "train", "digits_ce", f"output={tmp_path}", *SMALL, "train.duration=500ep", "--json"]
    with (tmp_path / "err").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
        try:
            _wait_for_step(tmp_path, process)
            # A terminal's Ctrl-C and a batch system's SIGTERM reach the group; GNU timeout's the process too.
            os.killpg(process.pid, number)
            if number == signal.SIGTERM:
                process.send_signal(number)
            output, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == code, (tmp_path / "err").read_text()
    summary = json.loads(output)
    assert summary["status"] == "interrupted"
    state = read_state(Path(summary["path"], "checkpoints", "last"))
    assert RunFolder.open(summary["path"]).read_json("status.json")["status"] == "KILLED"
    assert "stopping: writing a checkpoint" in (tmp_path / "err").read_text()
    if number == signal.SIGTERM:
        return
    duration = f"train.duration={state['step'] + 2}steps"
    assert main(["train", "--resume", summary["path"], duration]) == 0
    assert RunFolder.open(summary["path"]).config().train.duration == duration.partition("=")[2]
    assert main(["train", "--resume", summary["path"]]) == 2  # nothing is left to do


def _wait_for_step(folder: Path, process) -> None:
    for _ in range(600):
        assert process.poll() is None, (folder / "err").read_text()
        if any('"step": ' in path.read_text() for path in folder.glob("*/progress.json")):
            return
        time.sleep(0.2)
    raise TimeoutError("no training step within two minutes")
