"""`vitals.json` of a run or a sweep: that its driver lives, where, and how its ranks do.

The driver writes it every few seconds, so that a machine that sees the folder but not the process, or only
the folder's copy on object storage, can tell a running run from a lost one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from rtk.runs.folder import RunFolder

FILE = "vitals.json"
LOST_SECONDS = 120.0  # of silence; uploads are 10 s apart, and clocks may differ
WAITS_MORE, MOVES_MORE = 0.10, 0.25  # than the median rank, as shares of the time
SAMPLES = 10  # of a rank, before it is judged

Rank: TypeAlias = Mapping[str, Any]


def write_vitals(run: RunFolder, ranks: Sequence[Rank] = ()) -> None:
    """Say that the driver of a run or sweep, this process, lives, and how its ranks do."""
    run.write_json(FILE, {"host": socket.gethostname(), "time": time.time(), "ranks": list(ranks)})


def read_vitals(run: RunFolder) -> dict[str, Any]:
    """`host`, `time` and `ranks`; nothing where there are none, as of earlier versions."""
    found = run.read_json(FILE)
    return found if isinstance(found, dict) and {"host", "time", "ranks"} <= found.keys() else {}


def lives_elsewhere(run: RunFolder) -> bool:
    """Whether a driver on another machine has been heard of lately; on this one the run's lock tells more."""
    vitals = read_vitals(run)
    return bool(vitals) and vitals["host"] != socket.gethostname() and seconds_since(vitals) < LOST_SECONDS


def seconds_since(vitals: Mapping[str, Any]) -> float:
    """Seconds since the driver was heard of."""
    return max(0.0, time.time() - float(vitals["time"]))


def stragglers(ranks: Sequence[Rank]) -> dict[int, str]:
    """Ranks that the others have to wait for, with the reason.

    A rank waits longer for its data than the median rank, or stands less in collective operations: it is the
    others that wait there for it. (On GPUs kernels wait, not the thread, and the second says nothing.)

    Args:
        ranks: with `rank`, `samples`, `data_wait` and `collective`, shares of the time.
    """
    known = [rank for rank in ranks if rank["samples"] >= SAMPLES]
    if len(known) < 2:
        return {}
    wait, collective = (median(float(rank[key]) for rank in known) for key in ("data_wait", "collective"))
    found = {}
    for rank in known:
        if rank["data_wait"] > wait + WAITS_MORE:
            found[rank["rank"]] = (
                f"waits {rank['data_wait']:.0%} of the time for data, the median rank {wait:.0%}"
            )
        elif rank["collective"] < collective - MOVES_MORE:
            found[rank["rank"]] = (
                f"is {rank['collective']:.0%} of the time in collective operations, the median rank "
                f"{collective:.0%}: the others wait for it"
            )
    return found
