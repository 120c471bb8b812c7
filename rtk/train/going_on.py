"""Where a run goes on: at the newest checkpoint that is whole, or at the beginning."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import psutil

from rtk.runs.checkpoint_faults import faults_of, mend
from rtk.runs.checkpoints import CheckpointError, forget, has_checkpoint
from rtk.runs.folder import RunFolder
from rtk.train.best import keep_best
from rtk.train.checkpoint import read_state
from rtk.train.hang import process_of
from rtk.train.pulse import read_pulses


def step_reached(run: RunFolder, select: str) -> int:
    """Step of the checkpoint that a run goes on from, made sure to be whole; 0 where it has none.

    Args:
        run: to go on with, held by this process alone.
        select: its metric of the best checkpoint.

    Raises:
        CheckpointError: it had some, and none is whole.
    """
    end_orphans(run)
    mend_checkpoints(run)
    keep_best(run, select)
    last = run.checkpoints / "last"
    if has_checkpoint(last):
        return int(read_state(last)["step"])
    if run.read_json("best.json") is not None:
        raise CheckpointError(f"{last}: its checkpoints are gone: best.json tells of one")
    run.add_notice(f"{run.name}: ended before its first checkpoint: starts from the beginning")
    return 0


def end_orphans(run: RunFolder) -> None:
    """End the workers here that a killed driver has left: for a few seconds they train on, and save."""
    here = socket.gethostname()
    local = [pulse for pulse in read_pulses(run) if pulse.get("host") == here]
    left = [process for pulse in local if (process := process_of(pulse)) and process.pid != os.getpid()]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def mend_checkpoints(run: RunFolder) -> None:
    """Go back to whole checkpoints where those that a run would go on from are damaged, and say so.

    A damaged best one is forgotten: what training does again is compared with what is left.

    Raises:
        CheckpointError: none is whole.
    """
    for message in _mended(run):
        run.add_notice(message)


def _mended(run: RunFolder) -> Iterator[str]:
    best = run.checkpoints / "best"
    if fault := next(iter(faults_of(best)), None):
        forget(best)
        run.remove_json("best.json")
        yield f"{best}: {fault}; it is no longer the best one"
    if said := mend(run.checkpoints / "last"):
        yield said
