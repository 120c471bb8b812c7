"""Updates on two gloo ranks under DeepSpeed, and the same in one float64 process on the whole batch."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config.load import build_config
from rtk.optim import SharpnessAware, WeightAverage
from rtk.train.engine import backward, build_engine, build_sharpness
from rtk.train.zero_shards import engine_shards

RANKS, STEPS, BATCH, CLIP = 2, 10, 16, 0.3


@dataclass(frozen=True)
class Case:
    variant: str = "fsam"
    stage: int = 1
    base: str = "sgd"
    accumulation: int = 1
    clip: bool = False
    tiny: bool = False  # ZeRO-3 with nothing persistent and small sub-groups
    mutation: str = ""

    @property
    def name(self) -> str:
        parts = [self.variant, f"zero{self.stage}", self.base, f"x{self.accumulation}"]
        return "-".join(
            parts + ["clip"] * self.clip + ["tiny"] * self.tiny + [self.mutation] * bool(self.mutation)
        )


CASES = [
    Case(variant, stage, base, accumulation, clip, tiny)
    for variant, stage, base, accumulation, clip in itertools.product(
        ("sam", "asam", "fsam"), (0, 1, 2, 3), ("sgd", "adamw"), (1, 2), (False, True)
    )
    for tiny in ([False, True] if stage == 3 else [False])
]
# Not clearing the gradients shows where they live in the parameters (0) or accumulate in the shard (3).
MUTATIONS = [
    Case(stage=stage, accumulation=2, mutation=mutation)
    for mutation, stages in {"no_push": (1, 2, 3), "local_norm": (1, 2, 3), "no_clear": (0, 3)}.items()
    for stage in stages
]


def build_net() -> nn.Module:
    """Odd sizes, so that shards end inside parameters and need padding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 11), nn.Tanh(), nn.Linear(11, 7), nn.Tanh(), nn.Linear(7, 3))


def build_base(name: str, net: nn.Module) -> torch.optim.Optimizer:
    parameters = list(net.parameters())
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.05)


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(BATCH, 6, generator=generator), torch.randint(3, (BATCH,), generator=generator))
        for _ in range(STEPS)
    ]


def run_config(case: Case):
    zero = {"reduce_bucket_size": 50, "stage3_param_persistence_threshold": 0, "sub_group_size": 40}
    return build_config(
        {
            "data": {"train": "unused"},
            "train": {"batch_size": BATCH, "workers": RANKS, "zero_stage": case.stage},
            "optimizer": {"clip_norm": CLIP if case.clip else None},
            "sharpness": {"variant": case.variant, "rho": 0.3, "lmbda": 0.8},
            "deepspeed": {"zero_optimization": zero} if case.tiny else {},
        }
    )


def reference(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and their average after all steps: one process, float64, no sharding."""
    net = build_net().double()
    base = build_base(case.base, net)
    variant = "fsam" if case.variant == "fsam" else "sam"
    sharpness = SharpnessAware(base, variant, rho=0.3, lmbda=0.8, adaptive=case.variant == "asam")
    average = WeightAverage(sharpness.shards, net, decay=0.9, ramp=3)
    for x, y in batches():
        base.zero_grad()
        cross_entropy(net(x.double()), y).backward()
        sharpness.ascend()
        cross_entropy(net(x.double()), y).backward()
        sharpness.restore()
        if case.clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        base.step()
        average.update()
    weights = model_weights(net)
    with average.applied():
        return weights, model_weights(net)


def sharded(case: Case, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same on this rank's half of every batch; all weights, gathered through the model itself."""
    net = build_net()
    engine = build_engine(net, build_base(case.base, net), run_config(case))
    shards = engine_shards(engine)
    sharpness = build_sharpness(run_config(case).sharpness, shards)
    average = WeightAverage(shards, net, decay=0.9, ramp=3)
    _mutate(shards, case.mutation)
    for x, y in batches():
        own = slice(rank * BATCH // RANKS, (rank + 1) * BATCH // RANKS)
        _accumulate(engine, x[own], y[own], case.accumulation)
        sharpness.ascend()
        _accumulate(engine, x[own], y[own], case.accumulation)
        sharpness.restore()
        engine.step()
        average.update()
    weights = model_weights(net)
    with average.applied():
        averaged = model_weights(net)
    return weights, averaged


def _accumulate(engine, x, y, parts: int) -> None:
    for number, (xs, ys) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True), 1):
        backward(engine, cross_entropy(engine(xs), ys) / parts, last=number == parts)


def model_weights(net: nn.Module) -> torch.Tensor:
    """What the model computes with: its gathered parameters, flat."""
    import deepspeed

    parameters = list(net.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=hasattr(parameters[0], "ds_id")):
        return torch.cat([p.detach().flatten().clone() for p in parameters])


def _mutate(shards, mutation: str) -> None:
    if mutation == "no_push":
        shards.publish = lambda: None
    elif mutation == "no_clear":
        shards.clear_gradients = lambda: None
    elif mutation == "local_norm":
        shards.sum_over_shards = lambda value: value


def _rank_main(rank: int, port: int, cases: list[Case], path: str) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(RANKS),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {case: sharded(case, rank) for case in cases}
    if rank == 0:
        torch.save(results, path)
    dist.barrier()
    dist.destroy_process_group()


def run_on_two_ranks(
    cases: list[Case], path: str, port: int
) -> dict[Case, tuple[torch.Tensor, torch.Tensor]]:
    """Results of `sharded` for every case, from one pair of processes."""
    mp.spawn(_rank_main, args=(port, cases, path), nprocs=RANKS)
    torch.serialization.add_safe_globals([Case])
    return torch.load(path, weights_only=True)
