"""When MLflow is brought up to date: while a run goes on, after an evaluation, by `rtk sync`.

A server that cannot be reached costs a warning, never the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rtk.runs.folder import RunFolder
from rtk.runs.listing import status_of
from rtk.runs.sweep import sweep_of
from rtk.runtime.repeating import repeating
from rtk.tracking.mirror import Mirror
from rtk.tracking.refusals import is_answer, reason_of
from rtk.tracking.status import note_status

SEND_SECONDS = 2.0
logger = logging.getLogger(__name__)


@contextmanager
def mirrored(run: RunFolder) -> Iterator[Mirror]:
    """Keep MLflow up to date by a thread; send the rest on leaving.

    A server that cannot be reached costs a warning, never the run.
    """
    mirror = Mirror(run)
    note_status(run, "RUNNING")
    status = "FAILED"
    try:
        with kept_up_to_date(mirror.send):
            yield mirror
            status = mirror.final_status
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        keep = status == "FINISHED" and run.config_tree()["tracking"]["checkpoints"]
        note_status(run, status, keep_checkpoints=keep)
        send_rest(mirror)


@contextmanager
def kept_up_to_date(send: Callable[[], Any], seconds: float = SEND_SECONDS) -> Iterator[None]:
    """Call `send` every few seconds in a thread; warn of its errors, once for each outage."""
    was_reached = True

    def keep_sending() -> None:
        nonlocal was_reached
        was_reached = quietly(send, warn=was_reached)

    with repeating(keep_sending, seconds, "mlflow-mirror"):
        yield


def quietly(action: Callable[..., Any], warn: bool = True, **arguments: Any) -> bool:
    """Call, and turn any error into a warning; whether it went well."""
    try:
        action(**arguments)
    except Exception as error:  # MLflow raises many kinds; none of them may cost the run
        if warn:
            what = "answers" if is_answer(error) else "is not reachable"
            logger.warning("MLflow %s, all is kept on disk for `rtk sync`: %s", what, reason_of(error))
        return False
    return True


def send_rest(mirror: Mirror) -> None:
    """Send all that is left, files too; at a second try what an error in passing has kept back."""
    if not quietly(mirror.send, warn=False, files=True):
        quietly(mirror.send, files=True)


def send_evaluation(run: RunFolder) -> None:
    """Send the metrics and files of an evaluation to the run's MLflow run."""
    send_rest(Mirror(run))


def sync(runs: Sequence[RunFolder]) -> dict[str, str | int]:
    """Send what is left of runs and sweeps; one whose process has died is said to have failed.

    Returns:
        By name (`SWEEP/TRIAL` for a trial; the path, where two are called the same) the number of rows sent,
        or why they could not be.
    """
    outcome: dict[str, str | int] = {}
    for run in runs:
        sweep = sweep_of(run)
        name = run.name if sweep is None else f"{sweep.name}/{run.name}"
        name = str(run.path) if name in outcome else name
        if status_of(run) == "lost":
            logger.warning("%s: its process ended without a word: it has failed", name)
            rows = run.read_metrics()
            note_status(run, "FAILED", ended=rows[-1]["time"] if rows else None)
        try:
            outcome[name] = Mirror(run).send(files=True)
        except Exception as error:
            outcome[name] = reason_of(error)
    return outcome
