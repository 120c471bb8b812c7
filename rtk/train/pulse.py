"""A worker's pulse: `ranks/00001.json` of the run changes as long as its training thread gets anywhere.

A thread looks at the other one from outside, so that neither a step nor a validation has to say where it is:
a thread that waits for another rank, or for ever, stands at the same place in the same step.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from rtk.runs.folder import RunFolder
from rtk.runtime.repeating import repeating

FOLDER = "ranks"  # in the run folder
EVERY_SECONDS = 1.0


@contextmanager
def beating(run: RunFolder, rank: int, node: str, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Keep the pulse of the thread that calls, while the body runs.

    Args:
        run: the run.
        rank: of this worker.
        node: id of its node in the Ray cluster.
        every: seconds between two looks.
    """
    who = {"rank": rank, "pid": psutil.Process().pid, "started": psutil.Process().create_time(), "node": node}
    watched, beats, before = threading.get_ident(), 0, None

    def beat() -> None:
        nonlocal beats, before
        place = place_of(watched)
        if place != before:
            beats, before = beats + 1, place
            with suppress(OSError):  # a full disk: who looks for a hang looks twice
                run.write_json(f"{FOLDER}/{rank:05d}.json", {**who, "beats": beats})

    with repeating(beat, every, "pulse"):
        yield


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
