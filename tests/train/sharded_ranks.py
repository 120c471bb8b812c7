"""Every case on the gloo ranks of a group, sharded by DeepSpeed as its ZeRO stage says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.objectives import TermSetup, active_terms
from rtk.optim import WeightAverage
from rtk.optim.methods import build_methods
from rtk.runtime.ranks import rank, world_size
from rtk.train.agreement import NonFiniteLossError
from rtk.train.checkpoint import load_checkpoint
from rtk.train.engine import build_engine, method_setup, set_learning_rate
from rtk.train.saving import save_checkpoint
from rtk.train.state import TrainState
from rtk.train.step import train_step
from rtk.train.zero_shards import engine_shards
from tests.train.sharded_cases import (
    ALPHA,
    ASCOOD_WEIGHT,
    BATCH,
    CLIP,
    CRL_WEIGHT,
    EPS,
    RAT_WEIGHT,
    RATE,
    STEPS,
    Case,
)
from tests.train.sharded_network import Net, batches, build_base, model_weights, rate, samples
from tests.train.used_memory import used_memory


def run_cases(cases: list[Case]) -> dict[Case, tuple[torch.Tensor, torch.Tensor]]:
    """Results of `sharded` for every case, on every rank of a group."""
    with used_memory():
        return {case: sharded(case) for case in cases}


def sharded(case: Case, start: str = "", stop: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and their average after all steps on this rank's shares; gathered through the model itself.

    Args:
        case: what to run.
        start: folder of a checkpoint to continue from.
        stop: folder to write a checkpoint to after half of the steps, and stop there.
    """
    net, average, state = _build(case)
    others = batches(2)
    first = load_checkpoint(Path(start), state)["step"] if start else 0
    for step, batch in list(enumerate(batches()))[first : STEPS // 2 if stop else STEPS]:
        set_learning_rate(state.engine, rate(case, step))
        redrawn = own_views(others[step]) if case.redraw else None
        train_step(state, own_views(batch, step), step, 0, case.accumulation, redrawn)
    if stop:
        save_checkpoint(Path(stop), state, {"step": STEPS // 2})
    weights = model_weights(net)
    with average.applied():
        averaged = model_weights(net)
    return weights, averaged


def _build(case: Case) -> tuple[nn.Module, WeightAverage, TrainState]:
    config = run_config(case)
    net = Net(case)
    engine = build_engine(net, build_base(case.base, net), config)
    shards = engine_shards(engine)
    assert not shards.base_optimizer().state, "no step has been taken yet"
    average = WeightAverage(shards, net, RATE)
    methods = {**build_methods(config, method_setup(engine, shards)), "averaging": average}
    _mutate(shards, case.mutation)
    if case.mutation == "no_choice":
        methods["sharpness"].second_pass_share = 1.0
    elif case.mutation == "other_draws":
        methods["sharpness"].seed = 1
    setup = TermSetup(3, np.arange(2 * BATCH), torch.device("cpu"), steps_per_epoch=2)
    terms = active_terms(config.objective, lambda: setup)
    return net, average, TrainState(engine, shards, methods, terms, [])


def _mutate(shards, mutation: str) -> None:
    if mutation == "no_push":
        shards.publish = lambda: None
    elif mutation == "no_clear":
        shards.clear_gradients = lambda: None
    elif mutation == "no_addition":
        shards.add_to_gradients = lambda tensors, scale: None
    elif mutation == "local_norm":
        shards.sum_over_shards = lambda value: value


def run_config(case: Case):
    zero = {"reduce_bucket_size": 50, "stage3_param_persistence_threshold": 0, "sub_group_size": 40}
    sharpness = {"variant": case.variant, "rho": 0.3, "lmbda": 0.8, "sync": case.sync, "every": case.every}
    return build_config(
        {
            "data": {"train": "unused"},
            "train": {
                "batch_size": BATCH,
                "workers": world_size(),
                "zero_stage": case.stage,
                "accumulation": case.accumulation,
                "precision": case.precision,
            },
            "objective": {
                "rat": {"weight": RAT_WEIGHT * case.rat, "eps": EPS},
                "crl": {"weight": CRL_WEIGHT * case.crl},
                "ascood": {
                    "weight": ASCOOD_WEIGHT * case.ascood,
                    **{"outliers": "gradient", "share": 0.5, "alpha": ALPHA},
                },
            },
            "optimizer": {"clip_norm": CLIP if case.clip else None},
            "sharpness": sharpness,
            "deepspeed": {"zero_optimization": zero} if case.tiny else {},
        }
    )


def own_views(batch: tuple[torch.Tensor, torch.Tensor], step: int = 0) -> dict[str, View]:
    """This rank's share of a batch."""
    parts = (*batch, samples(step))
    return {"clean": View(*(tensor.chunk(world_size())[rank()] for tensor in parts))}


def stopped_in_the_second_pass(case: Case) -> dict[str, bool]:
    """Whether shards and model have their weights of before, by what goes wrong at w + e on every rank."""
    kept = {}
    for name, spoil, error in (
        ("exception", lambda view: View(view.images, view.targets + 99), IndexError),
        ("loss", lambda view: View(view.images * torch.nan, view.targets), NonFiniteLossError),
    ):
        net, _, state = _build(case)
        views = own_views(batches()[0])
        shards = [weight.clone() for weight in state.shards.weights()]
        model = model_weights(net)
        with pytest.raises(error):
            train_step(state, views, 0, redrawn={"clean": spoil(views["clean"])})
        if name == "exception":  # the others may not know of it: the model follows when it is next published
            state.shards.publish()
        pairs = [(model, model_weights(net)), *zip(shards, state.shards.weights(), strict=True)]
        kept[name] = all(torch.equal(before, after) for before, after in pairs)
    return kept


def stop_in_cases(cases: list[Case]) -> dict[Case, dict[str, bool]]:
    """Results of `stopped_in_the_second_pass` for every case."""
    return {case: stopped_in_the_second_pass(case) for case in cases}
