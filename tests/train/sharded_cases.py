"""Updates on two gloo ranks under DeepSpeed, and the same in one float64 process on the whole batch."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.objectives import TermSetup, active_terms
from rtk.optim import (
    EfficientSam,
    LookSam,
    MomentumSam,
    SharpnessAware,
    WeightAverage,
    ema_rate,
    most_risen,
)
from rtk.optim.methods import build_methods
from rtk.optim.shards import Fragment, LocalShards
from rtk.runtime.ranks import rank, world_size
from rtk.train.agreement import NonFiniteLossError
from rtk.train.checkpoint import load_checkpoint
from rtk.train.engine import build_engine, method_setup, set_learning_rate
from rtk.train.saving import save_checkpoint
from rtk.train.state import TrainState
from rtk.train.step import train_step
from rtk.train.zero_shards import engine_shards
from tests.train.used_memory import used_memory

RANKS, STEPS, BATCH, CLIP = 2, 10, 16, 0.3
RAT_WEIGHT, EPS, CRL_WEIGHT, ASCOOD_WEIGHT, ALPHA = 0.7, 0.02, 2.0, 0.8, 0.5
RATE = functools.partial(ema_rate, decay=0.9, ramp=3)


@dataclass(frozen=True)
class Case:
    variant: str = "fsam"
    stage: int = 1
    base: str = "sgd"
    accumulation: int = 1
    clip: bool = False
    tiny: bool = False  # ZeRO-3 with nothing persistent and small sub-groups
    mutation: str = ""
    sync: str = "global"
    every: int = 1
    rat: bool = False
    crl: bool = False
    ascood: bool = False
    frozen: bool = False  # the second layer takes no gradient
    redraw: bool = False  # another batch in the second pass
    precision: str = "fp32"

    @property
    def name(self) -> str:
        parts = [self.variant, f"zero{self.stage}", self.base, f"x{self.accumulation}"]
        names = ("clip", "tiny", "rat", "crl", "ascood", "frozen", "redraw")
        flags = {name: getattr(self, name) for name in names}
        parts += [name for name, on in flags.items() if on]
        parts += [self.mutation] * bool(self.mutation) + ["local"] * (self.sync == "local")
        return "-".join(parts + [f"every{self.every}"] * (self.every > 1) + [self.precision] * self.reduced)

    @property
    def reduced(self) -> bool:
        """Whether the model computes in bf16."""
        return self.precision != "fp32"


STAGES = (0, 1, 2, 3)
CASES = [
    Case(variant, stage, base, accumulation, clip, tiny)
    for variant, stage, base, accumulation, clip in itertools.product(
        ("sam", "asam", "fsam"), STAGES, ("sgd", "adamw"), (1, 2), (False, True)
    )
    for tiny in ([False, True] if stage == 3 else [False])
]
CASES += [
    Case(stage=stage, accumulation=2, tiny=stage == 3, **option)
    for stage in STAGES
    for option in (
        {"rat": True},
        {"rat": True, "variant": "none"},
        {"frozen": True},
        {"every": 3},
        {"redraw": True, "base": "adamw"},
    )
]
CASES += [
    Case(variant, stage, accumulation=accumulation, sync="local", clip=True)
    for variant, stage, accumulation in itertools.product(("sam", "asam"), (0, 1), (1, 2))
]
CASES += [Case(stage=stage, tiny=stage == 3, crl=True, ascood=True) for stage in STAGES]
CASES += [
    Case(variant, stage, base, accumulation=2, clip=True, tiny=stage == 3, every=every)
    for variant, every, bases in (
        ("looksam", 3, ("sgd", "adamw", "adamw", "sgd")),
        ("msam", 1, ("adamw", "sgd", "sgd", "adamw")),
        ("esam", 1, ("sgd", "adamw", "sgd", "adamw")),
    )
    for stage, base in zip(STAGES, bases, strict=True)
]
CASES += [
    Case("esam", stage, tiny=stage == 3, frozen=True, crl=True, ascood=True, every=2) for stage in STAGES
]
BF16_CASES = [
    Case(stage=stage, precision=precision, accumulation=2)
    for stage, precision in itertools.product(STAGES, ("bf16", "bf16_weights"))
]
BF16_CASES.append(Case(stage=0, base="adamw", precision="bf16_weights"))
# Not clearing the gradients shows where they live in the parameters (0) or accumulate in the shard (3).
MUTATIONS = [
    Case(stage=stage, accumulation=2, mutation=mutation)
    for mutation, stages in {"no_push": (1, 2, 3), "local_norm": (1, 2, 3), "no_clear": (0, 3)}.items()
    for stage in stages
]
MUTATIONS.append(Case("looksam", every=3, mutation="no_addition"))
MUTATIONS += [Case("esam", mutation=mutation) for mutation in ("no_choice", "other_draws")]


class Net(nn.Module):
    """Odd sizes, so that shards end inside parameters and need padding."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [nn.Linear(6, 11), nn.Tanh(), nn.Linear(11, 7), nn.Tanh(), nn.Linear(7, 3)]
        self.layers = nn.Sequential(nn.Flatten(), *sizes)
        self.layers[3].requires_grad_(not case.frozen)
        self.bf16 = case.reduced

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.layers(x)
        return logits.float() if self.bf16 else logits


def build_base(name: str, net: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.05)


def rate(case: Case, step: int) -> float:
    """A learning rate that falls, as under a schedule."""
    return (0.1 if case.base == "sgd" else 3e-3) * (1 - step / (2 * STEPS))


def batches(seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(BATCH, 1, 2, 3, generator=generator), torch.randint(3, (BATCH,), generator=generator))
        for _ in range(STEPS)
    ]


def samples(step: int) -> torch.Tensor:
    """Ids (BATCH,) of a batch: two steps go through all samples."""
    generator = torch.Generator().manual_seed(step // 2)
    return torch.randperm(2 * BATCH, generator=generator).chunk(2)[step % 2]


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


def reference(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and their average after all steps: one process, float64, no sharding."""
    apart = {"stage": 0, "accumulation": 1, "tiny": False, "mutation": "", "precision": "fp32"}
    return _whole(dataclasses.replace(case, **apart))


class NamedShards(LocalShards):
    """Unsharded weights by the names that the engine's have."""

    def __init__(self, base: torch.optim.Optimizer, net: nn.Module) -> None:
        super().__init__(base)
        self.names = {id(parameter): name for name, parameter in net.named_parameters()}

    def fragments(self) -> list[Fragment]:
        pairs = enumerate(self.owners())
        return [Fragment(self.names[id(p)], 0, p.numel(), index, 0) for index, p in pairs]


def sharpness_of(case: Case, base: torch.optim.Optimizer, net: nn.Module) -> SharpnessAware:
    if case.variant == "looksam":
        return LookSam(base, rho=0.3, every=case.every)
    if case.variant == "msam":
        return MomentumSam(base, rho=0.3)
    if case.variant == "esam":
        return EfficientSam(base, rho=0.3, every=case.every, shards=NamedShards(base, net))
    variant = "fsam" if case.variant == "fsam" else "sam"
    adaptive = case.variant == "asam"
    return SharpnessAware(base, variant, rho=0.3, lmbda=0.8, adaptive=adaptive, every=case.every)


@functools.cache
def _whole(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    net = Net(case).double()
    base = build_base(case.base, net)
    sharpness = sharpness_of(case, base, net)
    average = WeightAverage(sharpness.shards, net, RATE)
    others = batches(2 if case.redraw else 1)
    right = torch.zeros(2 * BATCH)
    for step, ((x, y), (x2, y2)) in enumerate(zip(batches(), others, strict=True)):
        base.param_groups[0]["lr"] = base.param_groups[-1]["lr"] = rate(case, step)
        base.zero_grad()
        parts = RANKS if case.sync == "local" else 1
        ascends = case.variant != "none" and sharpness.ascends_at(step)
        gradients = []
        for one, two in zip(
            zip(x.chunk(parts), y.chunk(parts), strict=True),
            zip(x2.chunk(parts), y2.chunk(parts), strict=True),
            strict=True,
        ):
            ranked = (right, step) if case.crl else None
            found = net(one[0].double()).argmax(1) == one[1]
            with sharpness.first_pass():
                loss_of(net, *one, case, ranked).backward()
            if ascends:
                before = plain_losses(net, *two, case, ranked).detach()
                sharpness.ascend()
                chosen = torch.arange(len(two[0]))
                if case.variant == "esam":
                    after = plain_losses(net, *two, case, ranked).detach()
                    chosen = most_risen(before, after, BATCH // 2)
                loss_of(net, two[0][chosen], two[1][chosen], case, ranked, chosen).backward()
                sharpness.restore()
            if case.crl:
                right[samples(step)] += found
            gradients.append(sharpness.shards.gradients())
            base.zero_grad()
        trained = [parameter for group in base.param_groups for parameter in group["params"]]
        for parameter, *of_ranks in zip(trained, *gradients, strict=True):
            parameter.grad = torch.stack(of_ranks).mean(0)
        sharpness.before_step()
        if case.clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        base.step()
        average.update()
    weights = model_weights(net)
    with average.applied():
        return weights, model_weights(net)


def loss_of(
    net: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    case: Case,
    ranked: tuple[torch.Tensor, int] | None = None,
    rows: torch.Tensor | slice = slice(None),
) -> torch.Tensor:
    """Cross-entropy, with RAT that of the attacked images (equations 11 and 12), with ASCOOD its divergence.

    `ranked`: times right of every sample, and the step, for CRL. `rows`: of the batch, which x is.
    """
    x = x.double().requires_grad_(True)
    logits = net(x)
    loss = cross_entropy(logits, y)
    if ranked is not None:
        loss = loss + CRL_WEIGHT * ring(logits, ranked, rows).mean()
    if case.ascood:
        (gradient,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x, retain_graph=True)
        least = gradient.flatten(1).abs().sort(1, descending=True).values[:, 2].view(-1, 1, 1, 1)
        made = net((x + ALPHA * gradient * (gradient.abs() >= least)).detach())
        loss = loss - ASCOOD_WEIGHT * (made.log_softmax(1).mean(1) + math.log(3)).mean()
    if not case.rat:
        return loss
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    side = torch.where(logits.argmax(1) == y, 1.0, -1.0).view(-1, 1, 1, 1)
    attacked = (x + EPS * side * gradient.sign()).clamp(0, 1).detach()
    return loss + RAT_WEIGHT * cross_entropy(net(attacked), y)


def ring(logits: torch.Tensor, ranked: tuple[torch.Tensor, int], rows: torch.Tensor | slice) -> torch.Tensor:
    """CRL's losses of images and the next ones, around."""
    right, step = ranked
    share = ((right - right.min()) / max(1, max(1, step // 2) - right.min()))[samples(step)][rows].double()
    confidence, difference = logits.softmax(1).amax(1), share - share.roll(-1)
    return (difference.abs() - difference.sign() * (confidence - confidence.roll(-1))).relu()


@torch.no_grad()
def plain_losses(
    net: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    case: Case,
    ranked: tuple[torch.Tensor, int] | None,
) -> torch.Tensor:
    """Loss of each image by the terms that attack nothing."""
    logits = net(x.double())
    losses = cross_entropy(logits, y, reduction="none")
    return losses if ranked is None else losses + CRL_WEIGHT * ring(logits, ranked, slice(None))


def sharded(case: Case, start: str = "", stop: str = "") -> tuple[torch.Tensor, torch.Tensor]:
    """The same on this rank's share of every batch; all weights, gathered through the model itself.

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


def own_views(batch: tuple[torch.Tensor, torch.Tensor], step: int = 0) -> dict[str, View]:
    """This rank's share of a batch."""
    parts = (*batch, samples(step))
    return {"clean": View(*(tensor.chunk(world_size())[rank()] for tensor in parts))}


def model_weights(net: nn.Module) -> torch.Tensor:
    """What the model computes with: its gathered parameters, flat."""
    import deepspeed

    parameters = list(net.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=hasattr(parameters[0], "ds_id")):
        return torch.cat([p.detach().flatten().to(p.dtype, copy=True) for p in parameters])


def _mutate(shards, mutation: str) -> None:
    if mutation == "no_push":
        shards.publish = lambda: None
    elif mutation == "no_clear":
        shards.clear_gradients = lambda: None
    elif mutation == "no_addition":
        shards.add_to_gradients = lambda tensors, scale: None
    elif mutation == "local_norm":
        shards.sum_over_shards = lambda value: value


def run_cases(cases: list[Case]) -> dict[Case, tuple[torch.Tensor, torch.Tensor]]:
    """Results of `sharded` for every case, on every rank of a group."""
    with used_memory():
        return {case: sharded(case) for case in cases}
