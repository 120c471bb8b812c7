"""Ctrl-C and termination as requests: the first asks for a checkpoint, the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

# What sends a signal to a process and to its group, as GNU timeout does, sends it twice: that is one request.
REPEAT_SECONDS = 1.0
# Ctrl-C; a scheduler; a terminal that has been closed. Exit codes are 128 more: 130, 143, 129.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RAY_ENDED = "Ray has ended on this machine; the run can go on from its last checkpoint"
RAY_ENDED_CODE = 75  # exit code where Ray was ended under a run; EX_TEMPFAIL of sysexits.h


class Interrupts:
    """A context that notes `SIGNALS` in `signal` instead of raising them; a later one is raised.

    Only the main thread can take signals: in any other (a sweep's trial) it does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._repeats = Repeats()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in wanted_signals():
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._repeats.is_one():
            return
        if self.signal is not None:
            raise KeyboardInterrupt(number)
        self.signal = number


class Repeats:
    """Tells a signal that belongs to the one before from one that is sent anew."""

    def __init__(self) -> None:
        self._last = -REPEAT_SECONDS

    def is_one(self) -> bool:
        """Whether the signal that comes now belongs to the one before."""
        before, self._last = self._last, time.monotonic()
        return self._last - before < REPEAT_SECONDS


def wanted_signals() -> list[int]:
    """`SIGNALS`, without SIGHUP where this process has been told to ignore it, as by nohup.

    A shell has what it starts in the background ignore SIGINT: who sends it all the same means it.
    """
    ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (number == signal.SIGHUP and ignores_hangup)]


def heed_interrupt() -> None:
    """Have Ctrl-C raise `KeyboardInterrupt` also where a shell has told this process to ignore it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def raise_termination() -> None:
    """Have `SIGNALS` but Ctrl-C's raise `KeyboardInterrupt(number)` where this is the main thread."""
    repeats = Repeats()

    def terminate(number: int, frame: FrameType | None) -> None:
        if not repeats.is_one():
            raise KeyboardInterrupt(number)

    if threading.current_thread() is threading.main_thread():
        for number in set(wanted_signals()) - {signal.SIGINT}:
            signal.signal(number, terminate)
