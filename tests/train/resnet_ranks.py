"""SURE+ steps of a small ResNet-18 on some gloo ranks, from images to weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import silu

from rtk.config.load import build_config, override_config
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.loader import Loader
from rtk.data.views.maker import ViewMaker
from rtk.models import resnet
from rtk.objectives import view_makers
from rtk.runtime.ranks import rank, world_size
from rtk.train.engine import set_learning_rate
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step
from rtk.train.validate import _reestimate
from tests.train.ranks import run_on_ranks

CLASSES, IMAGES = 5, 128
CPU = torch.device("cpu")
SURE_PLUS: dict[str, Any] = {
    "data": {"train": "random images", "image_size": 8},
    "model": {"name": "resnet18", "width": 8},
    "objective": {"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
    "optimizer": {"lr": 0.001, "nesterov": True},
    "sharpness": {"variant": "fsam", "rho": 0.2, "lmbda": 0.8},
    "averaging": {"kind": "ema", "decay": 0.9, "ramp": 5},
    "train": {"batch_size": 32, "precision": "fp32", "duration": "20steps"},
}
State = dict[str, torch.Tensor]


def images_and_pictures() -> tuple[ImageArrays, np.ndarray]:
    """Training images and mixing pictures of noise."""
    generator = np.random.default_rng(0)
    draw = partial(generator.integers, 0, 256, dtype=np.uint8)
    labels = generator.integers(0, CLASSES, IMAGES)
    return ImageArrays(draw((IMAGES, 3, 8, 8)), labels, np.arange(IMAGES)), draw((40, 3, 9, 9))


def states_after(configs: dict[str, RunConfig]) -> dict[str, State]:
    """Weights, statistics, their averages and re-estimated statistics at the end of each config's run.

    The network has SiLU for ReLU, whose kinks turn the rounding of fp32 into steps: one process that sees the
    same batches with their images in another order ends up to 0.2 away.
    """
    resnet.relu = lambda x, inplace=False: silu(x)
    return {name: _state_after(config) for name, config in configs.items()}


def _state_after(config: RunConfig) -> State:
    job = TrainingJob("", config.model_dump(mode="json"), CLASSES, IMAGES, resume=False)
    state = build_state(job, CPU)
    state.engine.module.train()
    train, pictures = images_and_pictures()
    makers = view_makers(config.objective)
    load = Loader(
        config,
        lambda images: ViewMaker(images, pictures, CLASSES, config.data, makers, config.seed),
        train,
        None,
        (job.steps_per_epoch, job.total_steps),
        (rank(), world_size()),
        CPU,
    )
    names = {term.view.name for term in state.terms}
    for step in range(job.total_steps):
        set_learning_rate(state.engine, config.optimizer.lr)
        train_step(state, load(step, names), step, config.seed, config.train.accumulation)
    trained = _copied(state.engine.module, "trained")
    with state.evaluated():
        averaged = _copied(state.engine.module, "averaged")
        _reestimate(state.engine.module, train, config.train.batch_size // world_size())
        return trained | averaged | _copied(state.engine.module, "re-estimated")


def _copied(model: torch.nn.Module, prefix: str) -> State:
    return {f"{prefix} {name}": value.detach().double().clone() for name, value in model.state_dict().items()}


def on_ranks(ranks: int, folder, **overrides: dict[str, Any]) -> dict[str, State]:
    """`states_after` on some ranks, for each set of overrides."""
    base = build_config(SURE_PLUS)
    configs = {n: override_config(base, {"train.workers": ranks, **keys}) for n, keys in overrides.items()}
    return run_on_ranks(ranks, states_after, configs, folder=folder)
