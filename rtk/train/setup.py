"""What a worker sets up before its first step: device, model, engine, and the state of the methods."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import torch

from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps
from rtk.config.training import AveragingConfig
from rtk.models.batchnorm import batchnorm_buffers
from rtk.models.classifier import concatenates_views
from rtk.models.layers import suits_channels_last
from rtk.optim import WeightAverage, build_optimizer
from rtk.optim.averaging import ema_rate, swa_rate
from rtk.runtime.environment import available_cpus, supports_bf16
from rtk.runtime.ray_session import hide_unassigned_gpus
from rtk.runtime.seeding import seed_torch
from rtk.train.engine import build_engine, build_sharpness
from rtk.train.initial import initial_model
from rtk.train.job import TrainingJob
from rtk.train.state import TrainState
from rtk.train.zero_shards import engine_shards

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def build_state(job: TrainingJob, device: torch.device) -> TrainState:
    """Model, engine and what the methods keep, at the start of a run."""
    config = job.config
    seed_torch(config.seed, 0)
    model = initial_model(config, job.num_classes, pretrained=not job.resume).to(device)
    if config.train.channels_last and suits_channels_last(model):
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


def set_up_device(config: RunConfig) -> torch.device:
    """This worker's device, with its share of the node's CPU threads."""
    import ray.train.torch

    hide_unassigned_gpus()
    # Also beside a GPU: views are made on the CPU, and Ray would leave one thread for them.
    share = available_cpus() // ray.train.get_context().get_local_world_size()
    torch.set_num_threads(config.train.threads or max(1, share))
    if torch.cuda.is_available():
        return ray.train.torch.get_device()
    keep_freed_memory()
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
