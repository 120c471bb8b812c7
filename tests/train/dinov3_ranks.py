"""DINOv3 on two gloo ranks under ZeRO-3, built in parts, and the same in one float64 process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.views.maker import View
from rtk.models import build_model
from rtk.models.weights import load_weights
from rtk.models.weights_file import open_weights
from rtk.objectives import active_terms
from rtk.optim import SharpnessAware, build_optimizer
from rtk.optim.methods import build_methods
from rtk.runtime.ranks import rank
from rtk.runtime.seeding import seed_torch
from rtk.train.engine import build_engine, method_setup, partitioned_build, whole
from rtk.train.initial import initial_model
from rtk.train.state import TrainState
from rtk.train.step import train_step
from rtk.train.zero_shards import engine_shards, full_shape
from tests.models.dinov3_cases import recorded_model
from tests.train.sharded_network import model_weights

RANKS, CLASSES, BATCH, STEPS = 2, 5, 4, 2
GOLDEN = Path(__file__).parents[1] / "golden" / "dinov3_meta.npz"


def sure_plus(**model: object) -> RunConfig:
    """A SURE+ run of plain gradient steps at rate 1: the weights' change is the gradient at w + e."""
    return build_config(
        {
            "data": {"train": "unused", "image_size": 64},
            "model": {"name": "dinov3_s16", **model},
            "objective": {"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
            "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0},
            "sharpness": {"variant": "fsam", "rho": 0.2, "lmbda": 0.8},
            "train": {
                "batch_size": BATCH,
                "workers": RANKS,
                "zero_stage": 3,
                "precision": "fp32",
                "checkpoint_activations": True,
            },
        }
    )


def views(step: int) -> dict[str, View]:
    """Random views of a batch, the mixed one with soft targets."""
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(3, BATCH, 3, 64, 64, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    soft = torch.rand(BATCH, CLASSES, generator=generator).softmax(1)
    return {
        "clean": View(images[0], labels),
        "mixed": View(images[1], soft),
        "pixmix": View(images[2], labels),
    }


def reference() -> dict[str, Tensor]:
    """Weights before, and their changes by every step: one float64 process, view by view."""
    seed_torch(0)
    config = sure_plus()
    model = build_model(config.model, CLASSES, 64)
    start = model_weights(model)
    model.double().train()
    base = build_optimizer(config.optimizer, model)
    sharpness = SharpnessAware(base, "fsam", rho=0.2, lmbda=0.8)
    changes, before = [], model_weights(model)
    for step in range(STEPS):

        def closure(step: int = step) -> None:
            for view in views(step).values():
                soft = view.targets.is_floating_point()
                targets = view.targets.double() if soft else view.targets
                cross_entropy(model(view.images.double()), targets).backward()

        sharpness.step(closure)
        after = model_weights(model)
        changes.append(after - before)
        before = after
    return {"start": start, "changes": torch.stack(changes)}


def sharded_steps() -> dict[str, Tensor]:
    """The same on this rank's half of every batch, the views concatenated."""
    seed_torch(0)
    config = sure_plus()
    model = initial_model(config, CLASSES, partition_above=0)
    largest = max(parameter.numel() for parameter in model.parameters())
    engine = build_engine(model, build_optimizer(config.optimizer, model), config)
    shards = engine_shards(engine)
    methods = build_methods(config, method_setup(engine, shards))
    state = TrainState(engine, shards, methods, active_terms(config.objective), [], concatenate=True)
    model.train()
    start = before = model_weights(model)
    changes = []
    for step in range(STEPS):
        own = slice(rank() * BATCH // RANKS, (rank() + 1) * BATCH // RANKS)
        mine = {n: View(v.images[own], v.targets[own]) for n, v in views(step).items()}
        train_step(state, mine, step)
        after = model_weights(model)
        changes.append(after.double() - before.double())
        before = after
    return {"start": start, "changes": torch.stack(changes), "largest": torch.tensor(largest)}


def recorded_tokens(weights: Path) -> dict[str, Tensor]:
    """The recorded model's tokens, from Meta's file into a model that is cut over the ranks."""
    config = sure_plus()
    with partitioned_build(config):
        model = recorded_model()
    load_weights(model, open_weights(weights), "recorded", new_head=True, writing=whole, shape_of=full_shape)
    engine = build_engine(model, build_optimizer(config.optimizer, model), config)
    tokens: list[Tensor] = []
    model.backbone.norm.register_forward_hook(lambda *parts: tokens.append(parts[2].detach()))
    engine(torch.from_numpy(np.load(GOLDEN)["x"]))
    return {"tokens": tokens[0]}


def all_cases(weights: Path) -> dict[str, Tensor]:
    """Results of all cases, on every rank of a group."""
    return {**sharded_steps(), **recorded_tokens(weights)}
