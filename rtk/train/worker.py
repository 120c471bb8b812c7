"""One worker of a run: build the state, then step, validate and save until the run is over."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from enum import IntEnum
from functools import partial
from typing import Any, TypeAlias

import torch

from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps
from rtk.data.decode.arrays import ImageArrays
from rtk.data.loader import Loader, ahead
from rtk.data.views.maker import View, ViewMaker
from rtk.objectives import view_makers
from rtk.optim.schedules import averaging_phase, learning_rate
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runtime.ranks import barrier, rank, world_size
from rtk.runtime.threads import leave_threads_to_views
from rtk.train.agreement import NonFiniteLossError, StepsUnderWay
from rtk.train.best import keep_best
from rtk.train.checkpoint import load_checkpoint
from rtk.train.engine import set_learning_rate
from rtk.train.going_on import mend_checkpoints
from rtk.train.job import FAILURE_FILE, Report, TrainingData, TrainingJob
from rtk.train.pulse import Meter, beating
from rtk.train.reporting import Reporter
from rtk.train.saver import Saver
from rtk.train.saving import SaveError
from rtk.train.setup import build_state, set_up_device
from rtk.train.state import TrainState
from rtk.train.step import train_step
from rtk.train.validate import validate

Views: TypeAlias = dict[str, View]


def train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's function, the same on every worker.

    Args:
        arguments: `job`, a `TrainingJob`, and `data`, a reference to `TrainingData`.

    Returns:
        `status` (`finished`, `interrupted` or `failed`) and `step`, or `message`.
    """
    import ray
    import ray.train

    job, node = arguments["job"].with_workers(world_size()), ray.get_runtime_context().get_node_id()
    with closing(job.run), beating(job.run, rank(), node, world_size()) as meter:
        _say_how_many(arguments["job"])
        data: TrainingData = ray.get(arguments["data"])
        return run_job(job, data, set_up_device(job.config), ray.train.report, meter)


def _say_how_many(job: TrainingJob) -> None:
    """Tell who watches the run how many workers it goes on with, where that may change."""
    train = job.config.train
    if train.min_workers is not None and rank() == 0:
        job.run.add_notice(f"training on {world_size()} of {train.workers} workers")


def run_job(
    job: TrainingJob, data: TrainingData, device: torch.device, report: Report, meter: Meter | None = None
) -> dict[str, Any]:
    """A worker's part of a run, wherever it runs; arguments and result as of `train_worker`.

    What would only fail again is returned as failed, so that Ray does not restart the workers. `report` is
    called on every rank after each epoch with `epoch`, `step`, whether the run is `finished`, and the
    validation metrics.
    """
    failure = job.run.read_json(FAILURE_FILE)
    if failure is not None:
        return {"status": "failed", **failure}
    try:
        state = build_state(job, device, data)
        start = _resume(job, state)
        with Saver(job) as saver:
            return _train_steps(job, data, state, saver, start, report, meter or Meter())
    except (NonFiniteLossError, SaveError) as error:  # on every rank
        return {"status": "failed", "message": str(error)}
    except ValueError as error:
        failure = {"message": str(error)}
        if world_size() == 1:
            return {"status": "failed", **failure}
        # The other ranks may be waiting for this one: let all be ended. Once restarted they find the reason.
        job.run.write_json(FAILURE_FILE, failure)
        raise


def _resume(job: TrainingJob, state: TrainState) -> int:
    """Step to start from: 0, or where the last checkpoint ends (also after a lost worker)."""
    last = job.run.checkpoints / "last"
    pull_checkpoints(last.parent)
    if rank() == 0:
        mend_checkpoints(job.run)
    barrier()
    pull_checkpoints(last.parent)  # which may have been mended
    start: int = load_checkpoint(last, state)["step"] if job.resume or has_checkpoint(last) else 0
    if rank() == 0:
        job.run.drop_metrics_after(start)
        keep_best(job.run, job.config.train.select)
    barrier()
    return start


def _train_steps(
    job: TrainingJob,
    data: TrainingData,
    state: TrainState,
    saver: Saver,
    start: int,
    report: Report,
    meter: Meter,
) -> dict[str, Any]:
    """Step, validate and save until the run is over or has to stop."""
    config, total, device = job.config, job.total_steps, state.engine.device
    batches = _batches(job, data, state, device, start)
    reporter = Reporter(job.run, job.steps_per_epoch, total, config.train.batch_size, start)
    under_way = StepsUnderWay(reporter.step if rank() == 0 else lambda *_: None)
    ask, left = partial(what_is_asked, job, saver), steps_left(device)
    state.engine.module.train()
    for step in range(start, total):
        waiting = time.monotonic()
        views, redrawn = next(batches)
        waited = time.monotonic() - waiting

        rate = rate_at(config, step, job)
        set_learning_rate(state.engine, rate)
        cut, late = config.train.accumulation, left > 0
        under_way.add(train_step(state, views, step, config.seed, cut, redrawn, ask, late), rate, waited)
        meter.step, meter.waited = step + 1, meter.waited + waited

        finished = step + 1 == total
        at_end = (step + 1) % job.steps_per_epoch == 0 or finished
        asked = under_way.read(0 if at_end else left)
        if at_end:
            metrics = _end_epoch(job, data, state, saver, reporter, step + 1)
            epoch = math.ceil((step + 1) / job.steps_per_epoch)
            report({"epoch": epoch, "step": step + 1, "finished": finished, **metrics})
        if finished:
            break
        if asked:
            asked = max(asked, under_way.read())  # nothing is saved that has not been looked at
            answer(Asked(asked), state, saver, step + 1)
        if asked == Asked.STOP:
            return {"status": "interrupted", "step": step + 1}
    return {"status": "finished", "step": total}


def steps_left(device: torch.device) -> int:
    """Steps whose losses may be unread while the next is begun: a CPU has nothing under way."""
    return 0 if device.type == "cpu" else 1


def _batches(
    job: TrainingJob, data: TrainingData, state: TrainState, device: torch.device, start: int
) -> Iterator[tuple[Views, Views | None]]:
    """Views of every step from `start` on, made one step ahead, and of its second pass where redrawn."""
    load = Loader(
        job.config,
        partial(_view_maker, job, data, device),
        data.sets.train,
        data.feed,
        (job.steps_per_epoch, job.total_steps),
        (rank(), world_size()),
        device,
    )

    def make(step: int) -> tuple[Views, Views | None]:
        names = {term.view.name for term in state.terms_at(step)}
        views, redraw = load(step, names), job.config.sharpness.redraw_views
        if not redraw or state.ascent_at(step) is None:
            return views, None
        return views, views | load(step, names & {"mixed"} if redraw == "mixup" else names, redraw=1)

    return ahead(make, range(start, job.total_steps), leave_threads_to_views(device))


def _view_maker(job: TrainingJob, data: TrainingData, device: torch.device, images: ImageArrays) -> ViewMaker:
    """Views of the training set, or of the part of it that is in memory."""
    config, sets = job.config, data.sets
    where = device if config.data.views_on == "device" else "cpu"
    return ViewMaker(
        images,
        sets.mixing.images if sets.mixing is not None else None,
        job.outputs,
        config.data,
        view_makers(config.objective),
        config.seed,
        sets.outliers.images if sets.outliers is not None else None,
        where,
    )


def _end_epoch(
    job: TrainingJob, data: TrainingData, state: TrainState, saver: Saver, reporter: Reporter, step: int
) -> dict[str, float]:
    """Validate, and save where it is due."""
    config = job.config
    if rank() == 0:
        reporter.phase(step, "validating")
    share = config.train.batch_size // world_size()
    # Frozen statistics are those that the weights were trained with.
    reestimate = config.averaging.reestimate_batchnorm and not config.model.freeze_batchnorm
    whole = replace(data.sets, train=data.sets.train.cropped(config.data.image_size))
    metrics = validate(state, whole, share, reestimate, config.evaluate)
    if rank() == 0:
        reporter.validated(step, metrics)
    if saver.is_due(step, metrics, state.engine.device):
        saver.save(state, step, metrics, is_final=step == job.total_steps)
    return metrics


class Asked(IntEnum):
    """What may be asked of the workers while they take a step; the greater goes first."""

    NOTHING = 0
    SAVE = 1
    STOP = 2


def what_is_asked(job: TrainingJob, saver: Saver) -> Asked:
    """What is asked of rank 0, which asks itself for the checkpoints that are due by the clock."""
    stop, save = job.run.requests()
    return Asked.STOP if stop else Asked(save or saver.is_overdue())


def answer(asked: Asked, state: TrainState, saver: Saver, step: int) -> None:
    """Save what was asked for, after a step; an epoch that ended with it may have done so by itself."""
    if asked == Asked.STOP or saver.last_step != step:
        saver.save(state, step, None, is_final=asked == Asked.STOP)
    saver.answer_request()


def rate_at(config: RunConfig, step: int, job: TrainingJob) -> float:
    """Learning rate of a step of the run."""
    schedule, epoch = config.schedule, job.steps_per_epoch
    start = duration_steps(config.averaging.start, epoch)
    averaging = schedule.swa_lr is not None and step >= start
    rate = learning_rate(
        start if averaging else step,
        job.total_steps,
        config.optimizer.lr,
        schedule.name,
        duration_steps(schedule.warmup, epoch),
        schedule.final_fraction,
        schedule.warmup_shape,
    )
    if schedule.swa_lr is None or not averaging:
        return rate
    return averaging_phase(step - start, rate, schedule.swa_lr, duration_steps(schedule.swa_anneal, epoch))
