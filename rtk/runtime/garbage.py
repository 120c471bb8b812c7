"""Python's search for cyclic garbage, kept from imports: all that they make stays, and it is much."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS_OF_IMPORTS = 10.0  # of a command or of a process of Ray, also where others have the cores


@contextmanager
def importing() -> Iterator[None]:
    """Import without a search: a quarter of the time in which torch, timm and Ray Train are imported."""
    searches = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searches:
            gc.enable()


def search_later(seconds: float = SECONDS_OF_IMPORTS) -> None:
    """Begin to search for garbage only after so many seconds: by then a process has its imports."""
    if not gc.isenabled():
        return
    gc.disable()
    os.register_at_fork(after_in_child=gc.enable)
    timer = threading.Timer(seconds, gc.enable)
    timer.daemon = True
    timer.start()
