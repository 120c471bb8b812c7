"""The copy on object storage of a run or a sweep: kept up to date by a thread while it goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rtk.runs.object_store import StorageError
from rtk.runs.working_copy import OPENED, place_of, push, store_of
from rtk.runtime.repeating import repeating
from rtk.runtime.shared_storage import check_output

SECONDS = 10.0
logger = logging.getLogger(__name__)


def check_reachable(folder: Path) -> None:
    """Refuse a folder of runs that cannot be written, or that workers on other nodes could not use.

    Raises:
        ConfigError: it is on no object storage, and some node does not see it.
        StorageError: it is, and cannot be written there.
    """
    store = store_of(folder)
    if store is None:
        check_output(folder)
    else:
        store.check()


@contextmanager
def uploaded(folder: Path) -> Iterator[None]:
    """Keep what a working copy is of up to date while the body runs, and send the rest on leaving.

    An outage costs a warning; what was not sent is sent once the storage is back.

    Raises:
        StorageError: it cannot be written to at the beginning, or at the end.
    """
    if store_of(folder) is None:
        yield
        return
    push(folder)
    try:
        with repeating(partial(_push, folder), SECONDS, "uploads"):
            yield
    except BaseException:
        _push(folder)
        raise
    send_rest(folder)


def send_opened() -> None:
    """Send what this process has changed in the working copies that it has opened; raises as `send_rest`."""
    for folder in sorted(OPENED):
        send_rest(folder)


def send_rest(folder: Path) -> None:
    """Send what has changed in a working copy.

    Raises:
        StorageError: saying where all of it is.
    """
    try:
        push(folder)
    except StorageError as error:
        again = f"all is in {folder}, and rtk sync {place_of(folder)} sends it"
        raise StorageError(f"{error}; {again}") from None


def _push(folder: Path) -> None:
    try:
        push(folder)
    except StorageError as error:
        logger.warning("%s; it is tried again", error)
