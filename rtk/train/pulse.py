"""A worker's pulse: `ranks/00001.json` of the run changes as long as its training thread gets anywhere.

A thread looks at the other one from outside, so that neither a step nor a validation has to say where it is:
a thread that waits for another rank, or for ever, stands at the same place in the same step.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from rtk.runs.folder import RunFolder
from rtk.runtime.repeating import repeating

FOLDER = "ranks"  # in the run folder
EVERY_SECONDS = 1.0
LOOKS = 30  # over which shares of the time are taken
GIB = 2**30
COLLECTIVES = str(Path("torch", "distributed"))


@dataclass
class Meter:
    """What the loop of the steps counts, for the pulse to tell.

    Attributes:
        step: steps done.
        waited: seconds waited for data.
    """

    step: int = 0
    waited: float = 0.0


@contextmanager
def beating(
    run: RunFolder, rank: int, node: str, ranks: int = 1, every: float = EVERY_SECONDS
) -> Iterator[Meter]:
    """Keep the pulse of the thread that calls, while the body runs.

    Args:
        run: the run.
        rank: of this worker.
        node: id of its node in the Ray cluster.
        ranks: number of workers in its group.
        every: seconds between two looks.

    Yields:
        What the loop is to keep up to date.
    """
    process, meter = psutil.Process(), Meter()
    who = {"rank": rank, "ranks": ranks, "node": node, "host": socket.gethostname()}
    who |= {"pid": process.pid, "started": process.create_time()}
    watched, beats, before = threading.get_ident(), 0, None
    looks: deque[tuple[float, float, bool]] = deque(maxlen=LOOKS)

    def beat() -> None:
        nonlocal beats, before
        looks.append((time.monotonic(), meter.waited, in_collective(watched)))
        place = place_of(watched)
        if place != before:
            beats, before = beats + 1, place
            with suppress(OSError):  # a full disk: who looks for a hang looks twice
                state = {"beats": beats, "step": meter.step, **shares(looks), **memory(process)}
                run.write_json(f"{FOLDER}/{rank:05d}.json", {**who, **state})

    with repeating(beat, every, "pulse"):
        yield meter


def read_pulses(run: RunFolder) -> list[dict[str, Any]]:
    """What the ranks of a run have last told, in their order; those that cannot be read are left out."""
    pulses = []
    for file in sorted((run.path / FOLDER).glob("[0-9]*.json")):
        with suppress(OSError, ValueError):  # of an earlier start, being deleted; cut by a loss of power
            pulses.append(json.loads(file.read_text(encoding="utf-8")))
    return pulses


def shares(looks: deque[tuple[float, float, bool]]) -> dict[str, float]:
    """Shares of the time, from looks: when, seconds waited for data by then, whether in a collective.

    Returns:
        `samples`, `data_wait` and `collective`.
    """
    (began, waited, _), (now, by_now, _) = looks[0], looks[-1]
    return {
        "samples": len(looks),
        "data_wait": min(1.0, (by_now - waited) / (now - began)) if now > began else 0.0,
        "collective": sum(stood for _, _, stood in looks) / len(looks),
    }


def memory(process: psutil.Process) -> dict[str, float]:
    """Memory of a rank in GiB, and the most that it has had of its GPU, once it has begun to use that."""
    found = {"memory_gib": process.memory_info().rss / GIB}
    if torch.cuda.is_initialized():  # who only asks what there is would fix it before the rank has chosen
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found


def in_collective(thread: int) -> bool:
    """Whether a thread is in an operation of all ranks, where it waits for the last of them."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if COLLECTIVES in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def place_of(thread: int) -> Any:
    """Where a thread stands: the instruction of every function on its stack, and how much has been written.

    A save of many gigabytes is a single instruction, and gets somewhere all the same: so MiB count.
    """
    frame, place = sys._current_frames().get(thread), []
    while frame is not None:
        place.append((frame.f_code, frame.f_lasti, frame.f_lineno))
        frame = frame.f_back
    written = psutil.Process().io_counters().write_bytes if hasattr(psutil.Process, "io_counters") else 0
    return written >> 20, tuple(place)
