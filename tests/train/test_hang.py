"""Workers that get nowhere are told from those that do, named and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import psutil
import pytest
import torch

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.train import hang
from rtk.train.going_on import step_reached
from rtk.train.hang import HangWatch
from rtk.train.pulse import FOLDER, beating, shares
from rtk.train.vitals import TOLD, RankWatch

pytestmark = pytest.mark.slow

WAITS = (
    "import threading\ndef all_reduce():\n    print(flush=True)\n    threading.Event().wait()\nall_reduce()"
)
# Whenever one looks, it is in another function. (Of a deep recursion py-spy often cannot read the stack.)
WORKS = """
from itertools import cycle
names = [f"step_{number}" for number in range(1000)]
exec("\\n".join(f"def {name}():\\n    return sum(range(1000))" for name in names))
steps = [globals()[name] for name in names]
print(flush=True)
for step in cycle(steps):
    step()
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(load_config("digits_ce", [f"output={tmp_path}"]))


@pytest.fixture
def ranks(run, monkeypatch):
    """Processes of this machine as the ranks of a run, which leave a pulse each and no other."""
    monkeypatch.setattr(hang, "on_their_nodes", lambda function, pulses: [function(p) for p in pulses])
    started = []

    def start(*programs: str) -> list[subprocess.Popen]:
        for rank, program in enumerate(programs):
            popen = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
            popen.stdout.readline()
            started.append(popen)
            process = psutil.Process(popen.pid)
            pulse = {"rank": rank, "pid": popen.pid, "started": process.create_time(), "node": "", "beats": 1}
            run.write_json(f"{FOLDER}/{rank:05d}.json", pulse)
        return started

    (run.path / FOLDER).mkdir()
    yield start
    for popen in started:
        popen.kill()
        popen.communicate()


def watched(run: RunFolder, timeout: str, seconds: float) -> HangWatch:
    """A watch that has looked for some time; the pulses that are there are not of an earlier start."""
    kept = {path: path.read_text() for path in (run.path / FOLDER).glob("*.json")}
    watch = HangWatch(run, len(kept), timeout)
    assert not (run.path / FOLDER).exists()
    (run.path / FOLDER).mkdir()
    for path, text in kept.items():
        path.write_text(text)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watch.look()
        time.sleep(0.05)
    return watch


def test_a_stopped_rank_is_named_and_all_are_ended(run, ranks):
    waiting, stopped = ranks(WAITS, WAITS)
    stopped.send_signal(signal.SIGSTOP)
    run.write_json("progress.json", {"step": 12})
    watched(run, "1s", 3)
    assert [waiting.wait(10), stopped.wait(10)] == [-signal.SIGKILL] * 2
    (notice,) = run.read_notices()
    assert "nothing has moved for 1 s after step 12" in notice
    assert f"rank 1 (process {stopped.pid}) stopped; stacks of all ranks: " in notice
    stacks = (run.path / "hang-step-12.txt").read_text()
    assert f"rank 0, process {waiting.pid}, sleeping" in stacks
    assert stacks.count("all_reduce (<string>") == 2


def test_ranks_that_wait_for_each_other_are_ended(run, ranks):
    processes = ranks(WAITS, WAITS)
    watched(run, "1s", 3)
    assert [process.wait(10) for process in processes] == [-signal.SIGKILL] * 2
    assert "none is stopped, they wait for each other" in run.read_notices()[0]


def test_a_rank_that_cannot_write_its_pulse_is_left_alone(run, ranks):
    ranks(WAITS, WORKS)
    watched(run, "1s", 3)
    assert run.read_notices() == []


def test_a_rank_that_is_being_replaced_is_waited_for(run, ranks):
    _, lost = ranks(WAITS, WAITS)
    lost.kill()
    lost.wait()
    watched(run, "1s", 2)
    assert run.read_notices() == []


def test_no_time_is_counted_while_a_node_is_known_to_be_lost(run, ranks):
    processes = ranks(WAITS, WAITS)
    watch = watched(run, "1s", 0.5)
    for _ in range(30):
        watch.rest()
        time.sleep(0.05)
    watch.look()
    assert run.read_notices() == []
    assert [process.poll() for process in processes] == [None] * 2


@pytest.mark.parametrize("timeout", [None, "5min"])
def test_not_before_the_time(run, ranks, timeout):
    processes = ranks(WAITS)
    watched(run, timeout, 0.5)
    assert processes[0].poll() is None


def test_ranks_of_a_larger_group_before_do_not_count(run, ranks):
    """Their pulses stay; a run that goes on with fewer workers is watched, and tells of those alone."""
    (now,) = ranks(WAITS)
    pulse = run.read_json(f"{FOLDER}/00000.json") | {"ranks": 1}
    run.write_json(f"{FOLDER}/00000.json", pulse)
    run.write_json(f"{FOLDER}/00001.json", pulse | {"rank": 1, "ranks": 2, "pid": 1, "started": 0.0})
    watched(run, "1s", 3)
    assert now.wait(10) == -signal.SIGKILL
    assert [told["rank"] for told in RankWatch(run).ranks()] == [0]


def test_another_process_of_the_same_number_is_left_alone(run, ranks):
    (process,) = ranks(WAITS)
    pulse = run.read_json(f"{FOLDER}/00000.json")
    other = pulse | {"started": pulse["started"] - 1}
    assert hang.examine(other) is None
    hang.end(other)
    assert process.poll() is None


def test_a_pulse_tells_what_the_rank_waits_for(run):
    done = threading.Event()
    there = Path(torch.distributed.__file__).with_name("waiting.py")  # by the name of its file, it is known
    exec(compile("def all_reduce(event): event.wait()", there, "exec"), names := {})

    def work() -> None:
        with beating(run, 0, "node", every=0.02) as meter:
            meter.step, meter.waited = 7, 1000.0
            names["all_reduce"](done)

    thread = threading.Thread(target=work)
    thread.start()
    file = run.path / FOLDER / "00000.json"
    while not file.exists() or json.loads(file.read_text())["collective"] < 0.1:
        assert thread.is_alive()
        time.sleep(0.02)
    done.set()
    thread.join()
    pulse = json.loads(file.read_text())
    assert pulse["step"] == 7
    assert pulse["memory_gib"] > 0
    (told,) = RankWatch(run).ranks()
    assert told == {"silent": 0.0} | {key: pulse[key] for key in TOLD if key in pulse}


def test_shares_of_the_time_are_between_the_first_look_and_the_last():
    looks = deque([(10.0, 1.0, True), (12.0, 1.0, False), (14.0, 2.0, True), (18.0, 3.0, True)])
    assert shares(looks) == {"samples": 4, "data_wait": 0.25, "collective": 0.75}
    assert shares(deque([(10.0, 1.0, False)])) == {"samples": 1, "data_wait": 0.0, "collective": 0.0}


def test_a_pulse_beats_while_its_thread_gets_anywhere(run):
    go, waits = threading.Event(), threading.Event()

    def work() -> None:
        with beating(run, 3, "node", every=0.02):
            number = 0
            while not go.is_set():
                number = sum([number, 1])
            waits.set()
            go.clear()
            go.wait()

    def beats() -> int:
        return json.loads((run.path / FOLDER / "00003.json").read_text())["beats"]

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.5)
    first = beats()
    assert first > 1
    go.set()
    assert waits.wait(10)
    time.sleep(0.3)
    still = beats()
    time.sleep(0.5)
    assert beats() == still
    go.set()
    thread.join()
    pulse = json.loads((run.path / FOLDER / "00003.json").read_text())
    assert pulse["pid"] == os.getpid()
    assert hang.process_of(pulse) == psutil.Process()


def test_signals_do_not_count(run, ranks):
    """A rank that was stopped and goes on moves again, whatever its pulse says."""
    (process,) = ranks(WORKS)
    os.kill(process.pid, signal.SIGSTOP)
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert process.poll() is None
        time.sleep(0.01)
    assert not hang.examine(run.read_json(f"{FOLDER}/00000.json"))["moves"]
    os.kill(process.pid, signal.SIGCONT)
    assert hang.examine(run.read_json(f"{FOLDER}/00000.json"))["moves"]


def test_workers_that_a_killed_driver_has_left_are_ended_before_the_run_goes_on(run, ranks):
    left, other = ranks(WAITS, WAITS)
    for rank, host in enumerate((socket.gethostname(), "another machine")):
        name = f"{FOLDER}/{rank:05d}.json"
        run.write_json(name, run.read_json(name) | {"host": host})
    assert step_reached(run, "val/aurc") == 0
    assert left.poll() is not None
    assert other.poll() is None
