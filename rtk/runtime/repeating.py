"""Something done again and again beside what goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(action: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call in a thread at once, and every so many seconds, while the body runs; then wait for the last call.

    Args:
        action: must not raise.
        seconds: between two calls.
        name: of the thread.
    """
    leave = threading.Event()

    def repeat() -> None:
        while not leave.is_set():
            action()
            leave.wait(seconds)

    thread = threading.Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        leave.set()
        thread.join()
