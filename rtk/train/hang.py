"""Workers that hang: named, their stacks written down, and ended, so that Ray starts the group anew.

torch gives up on a collective after half an hour, and says nothing of the rank that did not come.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from rtk.config.sections import interval_seconds
from rtk.runs.folder import RunFolder
from rtk.train.pulse import FOLDER

LOOK_SECONDS = 2.0
APART_SECONDS = 1.0  # between two dumps of a stack
NO_STACK = "no stack: "
TRIES = 5  # py-spy sometimes meets a process of which it cannot make sense, and can a moment later
ANSWER_SECONDS = 60.0  # a node that does not answer in this time is lost, not hung


class HangWatch:
    """Looks at the pulses of a run's ranks (`rtk.train.pulse`) and ends those that have stopped.

    Args:
        run: the run.
        workers: number of ranks, until the first of them says how many it found.
        timeout: `train.hang_timeout`; None: never.
        aloud: print what is found too; not where this process shows the run's notices.
    """

    def __init__(self, run: RunFolder, workers: int, timeout: str | None, aloud: bool = True) -> None:
        self.run, self.workers, self.aloud = run, workers, aloud
        self.seconds = interval_seconds(timeout) if timeout else None
        shutil.rmtree(run.path / FOLDER, ignore_errors=True)  # of an earlier start
        for rank in range(workers):  # and where another node keeps them
            run.remove_json(f"{FOLDER}/{rank:05d}.json")
        self._pulses: list[dict[str, Any]] = []
        self._changed = self._looked = time.monotonic()

    def look(self) -> None:
        """Look, if it is time; where no rank has got anywhere for too long, say so and end them."""
        now = time.monotonic()
        if self.seconds is None or now - self._looked < min(LOOK_SECONDS, self.seconds / 4):
            return
        self._looked, pulses = now, self._read()
        if pulses != self._pulses or len(pulses) < self._ranks(pulses):
            self._pulses, self._changed = pulses, now
        elif now - self._changed >= self.seconds:
            self._end(pulses)
            self._changed = time.monotonic()

    def rest(self) -> None:
        """Count no time until now: the workers wait for a node that is known to be lost."""
        self._changed = time.monotonic()

    def _read(self) -> list[dict[str, Any]]:
        names = (f"{FOLDER}/{rank:05d}.json" for rank in range(self.workers))
        pulses = [pulse for name in names if (pulse := self.run.read_json(name)) is not None]
        return pulses[: self._ranks(pulses)]  # a larger group may have been before

    def _ranks(self, pulses: Sequence[dict[str, Any]]) -> int:
        return int(pulses[0].get("ranks", self.workers)) if pulses else self.workers

    def _end(self, pulses: Sequence[dict[str, Any]]) -> None:
        found = on_their_nodes(examine, pulses)
        if any(seen is None or seen["moves"] for seen in found):
            return  # a rank is being replaced, or its pulse cannot be written
        step = (self.run.read_json("progress.json") or {}).get("step", 0)
        file = f"hang-step-{step}.txt"
        self.run.put_text(file, "\n".join(seen["stack"] for seen in found))
        self.run.add_notice(
            f"hung: nothing has moved for {self.seconds:g} s after step {step}; {_blame(pulses, found)}; "
            f"stacks of all ranks: {self.run.place}/{file}; "
            "the workers are started again from the last checkpoint",
            self.aloud,
        )
        on_their_nodes(end, pulses)


def _blame(pulses: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    """The ranks that are stopped; where none is, each waits for another one."""
    stopped = [
        f"rank {pulse['rank']} (process {pulse['pid']})"
        for pulse, seen in zip(pulses, found, strict=True)
        if seen["status"] == psutil.STATUS_STOPPED
    ]
    return f"{' and '.join(stopped)} stopped" if stopped else "none is stopped, they wait for each other"


def on_their_nodes(function: Any, pulses: Sequence[dict[str, Any]]) -> list[Any]:
    """Results of a function of each pulse, called on its node; None where that does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(function)
    there = [NodeAffinitySchedulingStrategy(pulse["node"], soft=False) for pulse in pulses]
    asked = [task.options(scheduling_strategy=s).remote(p) for s, p in zip(there, pulses, strict=True)]
    answered = set(ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)[0])
    return [_answer(reference) if reference in answered else None for reference in asked]


def _answer(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError:
        return None


def process_of(pulse: dict[str, Any]) -> psutil.Process | None:
    """The process of a rank on this node; None where it is gone, and its number may be another's."""
    try:
        process = psutil.Process(pulse["pid"])
        return process if process.create_time() == pulse["started"] else None
    except psutil.NoSuchProcess:
        return None


def examine(pulse: dict[str, Any]) -> dict[str, Any] | None:
    """What a rank on this node does: its `status`, its `stack`, whether it `moves`; None where it is gone."""
    process = process_of(pulse)
    if process is None:
        return None
    status, busy = process.status(), sum(process.cpu_times()[:2])
    first = dump_stack(process.pid, status)
    time.sleep(APART_SECONDS)
    second = dump_stack(process.pid, status)
    busy = sum(process.cpu_times()[:2]) - busy
    # Where py-spy may not look, a rank that computes is taken to move.
    moves = first != second or (second.startswith(NO_STACK) and busy > APART_SECONDS / 2)
    title = f"rank {pulse['rank']}, process {process.pid}, {status}"
    return {"status": status, "stack": f"==== {title}\n{second}", "moves": moves}


def dump_stack(pid: int, status: str) -> str:
    """Python's stack of all threads of a process, by py-spy; or why there is none."""
    beside = Path(sys.executable).with_name("py-spy")
    command = [str(beside) if beside.exists() else "py-spy", "dump", "--pid", str(pid)]
    # A process that is stopped cannot be paused.
    command += ["--nonblocking"] if status == psutil.STATUS_STOPPED else []
    found = NO_STACK
    for _ in range(TRIES):
        found = _output(command)
        if not found.startswith(NO_STACK):
            break
    return found


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # nosec B603  # the number of a process is all that is not fixed
            command, capture_output=True, encoding="utf-8", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{NO_STACK}{error}"
    return done.stdout if done.returncode == 0 else f"{NO_STACK}{done.stderr.strip()}"


def end(pulse: dict[str, Any]) -> None:
    """End a rank on this node at once; Ray then replaces the whole group."""
    process = process_of(pulse)
    if process is not None:
        process.kill()
