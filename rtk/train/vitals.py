"""The driver's sign of life: how the ranks do, from their pulses, into `vitals.json` and Ray's metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rtk.runs.folder import RunFolder
from rtk.runs.standing import last_checkpoint
from rtk.runs.vitals import write_vitals
from rtk.runs.working_copy import store_of
from rtk.runtime.repeating import repeating
from rtk.train.gauges import CHECKPOINT_AGE, Exporter
from rtk.train.pulse import read_pulses

EVERY_SECONDS = 5.0
TOLD = ("rank", "host", "step", "samples", "data_wait", "collective", "memory_gib", "gpu_memory_gib")


@contextmanager
def watched(run: RunFolder, every: float = EVERY_SECONDS) -> Iterator[None]:
    """Tell the vitals of a run or a sweep while the body runs, in a thread: no step waits for it."""
    watch, exporter = RankWatch(run), Exporter()

    def look() -> None:
        ranks = watch.ranks()
        with suppress(OSError):  # a full disk: training goes on
            write_vitals(run, ranks)
        exporter.export(run.name, (run.read_json("progress.json") or {}) | _checkpoint_age(run), ranks)

    with repeating(look, every, "vitals"):
        yield


def _checkpoint_age(run: RunFolder) -> dict[str, float]:
    """Age of the last checkpoint; on object storage it is not asked for, which others write there."""
    age = None if store_of(run.path) is not None else last_checkpoint(run)[1]
    return {} if age is None else {CHECKPOINT_AGE: age}


class RankWatch:
    """Reads the pulses of a run's ranks, and remembers since when each has been silent.

    Args:
        run: the run.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._heard: dict[int, tuple[Any, float]] = {}  # by rank: its beats, and when they last changed

    def ranks(self) -> list[dict[str, Any]]:
        """What each rank last told, and `silent`, the seconds in which it has got nowhere."""
        pulses = read_pulses(self.run)
        ranks = pulses[0].get("ranks", len(pulses)) if pulses else 0
        return [self._told(pulse) for pulse in pulses[:ranks]]  # a larger group may have been before

    def _told(self, pulse: dict[str, Any]) -> dict[str, Any]:
        beats, now = (pulse["pid"], pulse["beats"]), time.monotonic()
        before, since = self._heard.get(pulse["rank"], (None, now))
        if beats != before:
            self._heard[pulse["rank"]] = (beats, since := now)
        return {key: pulse[key] for key in TOLD if key in pulse} | {"silent": now - since}
