"""The checkpoints of a run as it trains: copied while training waits, written while it goes on.

A thread writes them: hashing, writing and syncing leave Python's lock to the thread that trains. The ranks'
threads wait for each other in a process group of their own, so that no collective of a step meets theirs.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from rtk.config.sections import interval_seconds
from rtk.runs.checkpoints import prune
from rtk.runs.working_copy import store_of
from rtk.runtime.ranks import max_over_ranks, rank, world_size
from rtk.train.best import is_better, keep_best
from rtk.train.job import TrainingJob
from rtk.train.saving import SaveError, Snapshot, on_first_rank, take_snapshot, write_snapshot
from rtk.train.state import TrainState


class Saver:
    """Saves a run, at most one checkpoint at a time; every rank calls the same methods in the same order.

    As a context it waits for what is being written when training ends, for whatever reason.
    """

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.run, train = job, job.run, job.config.train
        self.select, self.every = train.select, train.checkpoint_every
        background = train.background_saves and not job.shares_checkpoints
        one_thread = partial(torch.set_num_threads, 1)  # what trains has the others
        self.pool = ThreadPoolExecutor(1, "saver", one_thread) if background else None
        self.group: Any = dist.new_group(backend="gloo") if background and world_size() > 1 else None
        self._pending: Future[None] | None = None
        self._written: Snapshot | None = None  # its memory is the next one's
        self._began = time.monotonic()
        self.last_step: int | None = None  # whose state was saved last, or is being written

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        finally:
            if self.pool is not None:
                self.pool.shutdown()
            if self.group is not None:
                dist.destroy_process_group(self.group)

    def is_overdue(self) -> bool:
        """Whether `train.checkpoint_every` is a time, and has passed since the last save began."""
        seconds = interval_seconds(self.every)
        return seconds is not None and time.monotonic() - self._began >= seconds

    def is_due(self, step: int, metrics: dict[str, float], device: torch.device) -> bool:
        """Whether the epoch that ends with a step is to be saved; the same answer on every rank.

        The last one is. Where `train.checkpoint_every` is a time, so is the best, however little has passed.
        """
        if step == self.job.total_steps:
            return True
        if isinstance(self.every, int):
            return (step // self.job.steps_per_epoch) % self.every == 0
        due = rank() == 0 and (self.is_overdue() or is_better(self.run, self.select, step, metrics))
        return bool(max_over_ranks([int(due)], device)[0])

    def save(self, state: TrainState, step: int, metrics: dict[str, float] | None, is_final: bool) -> None:
        """Save the state after a step, with its validation metrics where there are any.

        Where it cannot be written, training goes on with what was saved before, and says so.

        Args:
            state: live objects.
            step: number of steps done.
            metrics: of the validation after it.
            is_final: nothing comes after it: wait until it is written.

        Raises:
            SaveError: on every rank, where it is final and cannot be written.
        """
        self._began, self.last_step = time.monotonic(), step
        self.wait()
        self._written = snapshot = take_snapshot(state, self._progress(step, metrics), self._written)
        if self.pool is None or is_final:
            self._write(snapshot, self._began, is_final)
        else:
            stalled = time.monotonic() - self._began
            self._pending = self.pool.submit(self._write, snapshot, self._began, is_final, stalled)

    def answer_request(self) -> None:
        """Where a checkpoint was asked for, say that it is there as soon as it is."""
        if rank() == 0 and self.run.save_requested():
            self.wait()
            self.run.clear_save()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if any; raises what has gone wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _progress(self, step: int, metrics: dict[str, float] | None) -> dict[str, Any]:
        return {
            "step": step,
            "world_size": world_size(),
            "num_classes": self.job.num_classes,
            "metrics": metrics,
            "config": self.job.config_hash,
            "verify": self.job.config.train.verify,
        }

    def _write(self, snapshot: Snapshot, began: float, is_final: bool, stalled: float | None = None) -> None:
        """Write a checkpoint, for which training waited `stalled` seconds; None: it waits all the time."""
        step = snapshot.content["step"]
        try:
            if store_of(self.run.checkpoints) is not None:
                # Where the driver's machine is lost, the checkpoint is there with the metrics that led to it.
                on_first_rank(self.run.send, self.group)
            write_snapshot(self.run.checkpoints / "last", snapshot, self.group)
            on_first_rank(partial(keep_best, self.run, self.select), self.group)
        except SaveError as error:
            if is_final:
                raise
            if rank() == 0:
                lost = f"no checkpoint of step {step} could be written: {error}"
                self.run.add_notice(f"{lost}; training goes on")
            return
        if rank() == 0:
            prune(self.run.checkpoints, self.job.config.train.checkpoints_kept)
            seconds = time.monotonic() - began
            waited = seconds if stalled is None else stalled
            times = {"system/checkpoint_seconds": seconds, "system/checkpoint_stall_seconds": waited}
            self.run.append_metrics(step, step / self.job.steps_per_epoch, times)
