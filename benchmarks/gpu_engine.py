"""Part e of `gpu.py`: rtk's own step on a DeepSpeed engine of every ZeRO stage, beside the bare loop."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable

import torch
from gpu_steps import LMBDA, RHO, FastStep, Settings, View, against, in_turns, random_views, sgd

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.models import build_model
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step

CLASSES = 100
GOAL = 95  # percent of the bare loop's speed


def has_deepspeed() -> bool:
    """Whether DeepSpeed is at hand."""
    return importlib.util.find_spec("deepspeed") is not None


def join_alone(device: str) -> None:
    """A process group of this process only, which DeepSpeed wants even for one GPU."""
    if torch.distributed.is_initialized():
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")


def measure_engine(settings: Settings) -> bool:
    """Print images/s of the SURE+ step of ResNet-18 in the bare loop and on each engine, in turns."""
    if not has_deepspeed():
        print("e  DeepSpeed is not here: not measured (pip install deepspeed)", flush=True)
        return True
    join_alone(settings.device)
    batch = 32 if settings.small else 128
    views = random_views(batch, 32, CLASSES, settings.device, torch.float32)
    names = ["bare loop", *(f"ZeRO-{stage}" for stage in range(4))]
    bare = bare_step(sure_plus(0, batch, settings.small), settings.device)
    steps: list[Callable[[], object]] = [lambda: bare(views)]
    steps += [
        engine_step(sure_plus(stage, batch, settings.small), views, settings.device) for stage in range(4)
    ]
    for step in steps:
        for _ in range(3):
            step()
    medians = in_turns(steps, settings.device, settings.seconds)
    for name, duration in zip(names, medians, strict=True):
        share = against(100 * medians[0] / duration, GOAL, "% of the bare loop", settings.small)
        print(f"e  {name:<10} {batch / duration:9.1f} images/s  {share if duration != medians[0] else ''}")
    return True


def sure_plus(stage: int, batch: int, small: bool) -> RunConfig:
    """Settings of the CIFAR recipe on one worker."""
    return build_config(
        {
            "data": {"train": "random pictures"},
            "model": {"width": 16 if small else 64},
            "objective": {"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
            "sharpness": {"variant": "fsam", "rho": RHO, "lmbda": LMBDA},
            "averaging": {"kind": "ema"},
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005},
            "train": {"batch_size": batch, "zero_stage": stage, "precision": "bf16"},
        }
    )


def bare_step(config: RunConfig, device: str) -> FastStep:
    """The same model and mathematics without an engine."""
    model = build_model(config.model, CLASSES).to(device).train()
    model.autocast_dtype, model.memory_format = torch.bfloat16, torch.channels_last
    return FastStep(model, sgd(model, fused=True))


def engine_step(config: RunConfig, views: dict[str, View], device: str) -> Callable[[], object]:
    """One update as `rtk train` makes it, on this process alone."""
    job = TrainingJob("", config.model_dump(mode="json"), CLASSES, 50_000, resume=False)
    state = build_state(job, torch.device(device))
    state.engine.module.train()
    count = iter(range(10**9))
    return lambda: train_step(state, views, next(count))
