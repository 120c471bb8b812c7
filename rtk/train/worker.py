"""One worker of a run: build the state, then step, validate and save until the run is over."""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from rtk.config.schema import AveragingConfig, RunConfig, duration_steps
from rtk.data.arrays import ImageArrays
from rtk.data.loader import Loader, ahead
from rtk.data.views import View, ViewMaker
from rtk.distributed import barrier, max_over_ranks, mean_over_ranks_, rank, world_size
from rtk.environment import supports_bf16
from rtk.models.build import batchnorm_buffers, concatenates_views
from rtk.objectives import Term, active_terms, compute_losses
from rtk.optim import WeightAverage, build_optimizer
from rtk.optim.averaging import ema_rate, swa_rate
from rtk.optim.schedules import learning_rate
from rtk.seeding import seed_torch
from rtk.train.checkpoint import (
    copy_checkpoint,
    has_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from rtk.train.engine import backward, build_engine, build_sharpness, set_learning_rate
from rtk.train.initial import initial_model
from rtk.train.job import TrainingData, TrainingJob
from rtk.train.reporting import Reporter
from rtk.train.state import TrainState
from rtk.train.validate import validate
from rtk.train.zero_shards import engine_shards

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LOWER_IS_BETTER = ("aurc", "nll", "fpr95")
Report: TypeAlias = Callable[[dict[str, Any]], None]


class NonFiniteLossError(RuntimeError):
    """A loss term became NaN or infinite on some rank; the weights are those before the step."""


def train_step(
    state: TrainState,
    views: dict[str, View],
    terms: list[Term],
    step: int,
    seed: int = 0,
    accumulation: int = 1,
    redrawn: dict[str, View] | None = None,
) -> dict[str, float]:
    """One update of the weights: the whole method, top to bottom.

    Args:
        state: live objects.
        views: this rank's share of the batch.
        terms: terms of the loss.
        step: number of the update, from 0.
        seed: seed of dropout and drop path.
        accumulation: micro-batches that the share is cut into, to save memory.
        redrawn: views of the same images for the second pass of SAM; None: the same views.

    Returns:
        Mean loss of every term over all ranks' images, at the weights before the step.

    Raises:
        NonFiniteLossError: on every rank, where a loss of any rank is NaN or infinite.
    """
    noise = (seed, 1, step, rank())
    batches = micro_batches(views, accumulation)
    sharpness = state.sharpness
    if sharpness is None or not sharpness.ascends_at(step):
        losses = back_propagate(state, batches, terms, noise)
    else:
        losses = back_propagate(state, batches, terms, noise, reduce=not state.local_ascent)
        sharpness.ascend()
        if redrawn is not None:
            batches = micro_batches(redrawn, accumulation)
        again = back_propagate(state, batches, terms, noise, first_pass=False)
        losses |= {f"{name} at w + e": loss for name, loss in again.items()}
        sharpness.restore()
    means = finite_means(losses, step)
    state.engine.step()
    mean_over_ranks_(state.buffers)
    if state.average is not None:
        state.average.update()
    return {term.name: means[term.name] for term in terms}


def micro_batches(views: dict[str, View], count: int) -> list[dict[str, View]]:
    """Views cut into `count` parts of the same number of images."""
    parts = {
        name: zip(view.images.chunk(count), view.targets.chunk(count), strict=True)
        for name, view in views.items()
    }
    return [{name: View(*next(part)) for name, part in parts.items()} for _ in range(count)]


def back_propagate(
    state: TrainState,
    batches: list[dict[str, View]],
    terms: list[Term],
    noise: tuple[int, ...],
    first_pass: bool = True,
    reduce: bool = True,
) -> dict[str, Tensor]:
    """Gradients of the weighed sum of all terms; mean loss (a scalar tensor) of every term.

    `noise` seeds dropout and drop path, so that both passes of SAM drop the same units. Without `reduce`
    the gradients stay this rank's own.
    """
    seed_torch(*noise)
    losses: dict[str, Tensor] = {}
    for number, views in enumerate(batches, 1):
        for together in compute_losses(state.engine, views, terms, first_pass, state.concatenate):
            means = {term: per_sample.mean() / len(batches) for term, per_sample in together}
            last = number == len(batches) and terms[-1] in means
            total = torch.stack([term.weight * loss for term, loss in means.items()]).sum()
            backward(state.engine, total, reduce=reduce and last)
            for term, loss in means.items():
                losses[term.name] = losses.get(term.name, 0) + loss.detach()
    return losses


def finite_means(losses: dict[str, Tensor], step: int) -> dict[str, float]:
    """Mean loss of every term over the ranks; one rank's NaN or infinity makes it so on all of them.

    Raises:
        NonFiniteLossError: on every rank, naming the step and the term.
    """
    means = torch.stack([loss.float() for loss in losses.values()])
    mean_over_ranks_([means])
    named = dict(zip(losses, means.tolist(), strict=True))
    for name, value in named.items():
        if not math.isfinite(value):
            raise NonFiniteLossError(f"step {step + 1}: loss term {name!r} is not finite")
    return named


def train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's function, the same on every worker.

    Args:
        arguments: `job`, a `TrainingJob`, and `data`, a reference to `TrainingData`.

    Returns:
        `status` (`finished`, `interrupted` or `failed`), `step`, `message` and the last metrics.
    """
    import ray
    import ray.train

    job: TrainingJob = arguments["job"]
    data: TrainingData = ray.get(arguments["data"])
    return run_job(job, data, _set_up_device(job.config), ray.train.report)


def run_job(job: TrainingJob, data: TrainingData, device: torch.device, report: Report) -> dict[str, Any]:
    """A worker's part of a run, wherever it runs; arguments and result as of `train_worker`.

    `report` is called on every rank after each epoch with `epoch`, `step`, whether the run is `finished`, and
    the validation metrics.
    """
    try:
        state = build_state(job, device)
        return _train(job, data, state, device, _resume(job, state), report)
    except (NonFiniteLossError, ValueError) as error:
        return {"status": "failed", "message": str(error)}  # a restart would only fail again


def build_state(job: TrainingJob, device: torch.device) -> TrainState:
    """Model, engine and what the methods keep, at the start of a run."""
    config = job.config
    seed_torch(config.seed, 0)
    model = initial_model(config, job.num_classes, pretrained=not job.resume).to(device)
    if config.train.channels_last:
        model.memory_format = torch.channels_last
    model.autocast_dtype = autocast_dtype(config.train.precision, device)
    concatenate = concatenates_views(config.train.concatenate_views, model)
    engine = build_engine(model, build_optimizer(config.optimizer, model), config)
    shards = engine_shards(engine)
    average = None
    if config.averaging.kind != "none":
        average = WeightAverage(shards, model, averaging_rate(config.averaging, job.steps_per_epoch))
    buffers = batchnorm_buffers(model)
    sharpness = build_sharpness(config.sharpness, engine, shards)
    local = config.sharpness.sync == "local"
    return TrainState(engine, shards, sharpness, average, buffers, local, concatenate)


def averaging_rate(config: AveragingConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Share of the present weights in the average, by the number of the update."""
    if config.kind == "ema":
        return partial(ema_rate, decay=config.decay, ramp=config.ramp)
    start = duration_steps(config.start, steps_per_epoch)
    return partial(swa_rate, start=start, every=duration_steps(config.every, steps_per_epoch))


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is asked for, or on `auto` where the machine has the instructions."""
    wanted = precision.startswith("bf16") or (precision == "auto" and supports_bf16(device.type))
    return torch.bfloat16 if wanted else None


def _set_up_device(config: RunConfig) -> torch.device:
    import ray.train.torch

    if torch.cuda.is_available():
        return ray.train.torch.get_device()
    keep_freed_memory()
    share = len(os.sched_getaffinity(0)) // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(config.train.threads or max(1, share))
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back: activations come again at every step.

    By default each large tensor is mapped anew and zeroed page by page, which costs an fp32 step of
    ResNet-18 up to a quarter of its time. Other C libraries are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _resume(job: TrainingJob, state: TrainState) -> int:
    """Step to start from: 0, or where the last checkpoint ends (also after a lost worker)."""
    last = job.run.checkpoints / "last"
    start: int = load_checkpoint(last, state)["step"] if job.resume or has_checkpoint(last) else 0
    if rank() == 0:
        job.run.drop_metrics_after(start)
    barrier()
    return start


def _train(
    job: TrainingJob,
    data: TrainingData,
    state: TrainState,
    device: torch.device,
    start: int,
    report: Report,
) -> dict[str, Any]:
    config, run, total = job.config, job.run, job.total_steps
    terms = active_terms(config.objective)
    names = {term.view for term in terms}
    load = Loader(
        config,
        partial(_view_maker, job, data, device),
        data.train,
        data.feed,
        (job.steps_per_epoch, total),
        (rank(), world_size()),
        device,
    )

    def make(step: int) -> tuple[dict[str, View], dict[str, View] | None]:
        again = config.sharpness.redraw_views and state.sharpness and state.sharpness.ascends_at(step)
        return load(step, names), load(step, names, redraw=1) if again else None

    batches = ahead(make, range(start, total))
    reporter = Reporter(run, job.steps_per_epoch, total, config.train.batch_size, start)
    metrics: dict[str, float] = {}
    state.engine.module.train()
    for step in range(start, total):
        waiting = time.monotonic()
        views, redrawn = next(batches)
        waited = time.monotonic() - waiting

        rate = rate_at(config, step, job)
        set_learning_rate(state.engine, rate)
        losses = train_step(state, views, terms, step, config.seed, config.train.accumulation, redrawn)
        if rank() == 0:
            reporter.step(step, losses, rate, waited)

        if (step + 1) % job.steps_per_epoch == 0 or step + 1 == total:
            metrics = _end_epoch(job, data, state, reporter, step + 1)
            report(
                {
                    "epoch": math.ceil((step + 1) / job.steps_per_epoch),
                    "step": step + 1,
                    "finished": step + 1 == total,
                    **metrics,
                }
            )
        if stop_requested(job, device) and step + 1 < total:
            _save(job, state, "last", step + 1)
            return {"status": "interrupted", "step": step + 1, "metrics": metrics}
    return {"status": "finished", "step": total, "metrics": metrics}


def _view_maker(job: TrainingJob, data: TrainingData, device: torch.device, images: ImageArrays) -> ViewMaker:
    """Views of the training set, or of the part of it that is in memory."""
    config = job.config
    where = device if config.data.views_on == "device" else "cpu"
    return ViewMaker(
        images,
        data.pictures,
        job.num_classes,
        config.data,
        config.objective,
        config.seed,
        data.outliers,
        where,
    )


def _end_epoch(
    job: TrainingJob, data: TrainingData, state: TrainState, reporter: Reporter, step: int
) -> dict[str, float]:
    """Validate, save, keep the best."""
    config, run = job.config, job.run
    if rank() == 0:
        reporter.phase(step, "validating")
    share = config.train.batch_size // world_size()
    # Frozen statistics are those that the weights were trained with.
    reestimate = config.averaging.reestimate_batchnorm and not config.model.freeze_batchnorm
    seen = replace(data, train=data.train.cropped(config.data.image_size))
    metrics = validate(state, seen, share, reestimate, config.evaluate)
    if rank() == 0:
        reporter.validated(step, metrics)
    epoch = step // job.steps_per_epoch
    if epoch % config.train.checkpoint_every == 0 or step == job.total_steps:
        _save(job, state, "last", step)
        if rank() == 0 and _is_best(job, metrics):
            copy_checkpoint(run.checkpoints / "last", run.checkpoints / "best")
            run.write_json("best.json", {"step": step, **metrics})
    return metrics


def _save(job: TrainingJob, state: TrainState, name: str, step: int) -> None:
    progress = {"step": step, "world_size": world_size(), "num_classes": job.num_classes}
    save_checkpoint(job.run.checkpoints / name, state, progress, rank(), barrier)


def _is_best(job: TrainingJob, metrics: dict[str, float]) -> bool:
    key = job.config.train.select
    best = job.run.read_json("best.json")
    if best is None or not (job.run.checkpoints / "best").exists():
        return True
    if math.isnan(best[key]) or math.isnan(metrics[key]):
        return math.isnan(best[key])
    gain = metrics[key] - best[key]
    return -gain >= 0 if key.endswith(LOWER_IS_BETTER) else gain >= 0


def stop_requested(job: TrainingJob, device: torch.device) -> bool:
    """Whether rank 0 has seen the request to stop; the same answer on every rank."""
    (stop,) = max_over_ranks([int(rank() == 0 and job.run.stop_requested())], device)
    return bool(stop)


def rate_at(config: RunConfig, step: int, job: TrainingJob) -> float:
    """Learning rate of a step of the run."""
    warmup = duration_steps(config.schedule.warmup, job.steps_per_epoch)
    schedule = config.schedule
    return learning_rate(
        step, job.total_steps, config.optimizer.lr, schedule.name, warmup, schedule.final_fraction
    )
