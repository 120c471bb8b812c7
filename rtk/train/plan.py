"""`rtk plan`: what a recipe needs per rank under every ZeRO stage, before anything is started.

The formulas follow what DeepSpeed keeps at the three moments when most is alive: in the backward pass,
while gradients are reduced, and in the base optimiser's step. `benchmarks/plan.py` compares them with
measured peaks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from rtk.config.errors import ConfigError
from rtk.config.load import override_config
from rtk.config.schema import RunConfig
from rtk.data.sets.of_run import open_configured
from rtk.models import build_model
from rtk.models.classifier import concatenates_views
from rtk.models.footprint import Footprint, measure_footprint
from rtk.models.shapes_only import shapes_only
from rtk.objectives import active_terms
from rtk.objectives.objective import forward_passes, images_of_pass
from rtk.optim.methods import first_pass_bytes, kept_bytes, second_pass_bytes
from rtk.train.engine import deepspeed_config

STAGES = (0, 1, 2, 3)
FP32 = 4
GIB = 2**30
# Share of a device's memory that a plan may fill: the rest is for its context, collectives and fragmentation.
USABLE = 0.9
# Moments that the base optimiser keeps of every weight.
MOMENTS = {"sgd": 1, "adamw": 2}


@dataclass(frozen=True)
class StagePlan:
    """Bytes a rank at the moment when most is alive, by what they hold, and bytes sent in a step."""

    stage: int
    moment: str
    parts: dict[str, int]
    communication: int

    @property
    def total(self) -> int:
        """Bytes a rank."""
        return sum(self.parts.values())

    def fits(self, memory: float) -> bool:
        """Whether it fits into a device of `memory` bytes, with some room left."""
        return self.total <= USABLE * memory


@dataclass(frozen=True)
class Load:
    """What the formulas need to know of a run; sizes in elements where nothing else is said.

    Attributes:
        ranks: R.
        trained: parameters that take gradients.
        frozen: parameters that take none.
        weight_bytes: bytes of a weight of the model, and of its gradient.
        activations: bytes that the largest graph keeps.
        images: bytes of a rank's views of a batch.
        terms: backward passes of one gradient (terms of the loss that go alone, micro-batches).
        passes: gradients of one update (2 with SAM).
        looks: forward passes besides, to choose the images of the second one (ESAM).
        exchanged: bytes of a rank's views that the second pass may take to other ranks.
        moments: numbers that the base optimiser keeps of a weight.
        averages: bytes that the methods keep of a weight between steps (F-SAM's average, EMA).
        backup: bytes that they keep of a weight while it is moved; with `local` on every rank of all.
        moves: times that the weights are moved in an update, beside the optimiser's step.
        local: ascent along each rank's own gradient.
        masters: whether there are fp32 masters besides the weights in every stage.
        autocast: whether passes compute in bf16 copies of fp32 weights.
        bucket: largest reduction.
        live: largest number of gathered weights under ZeRO-3.
    """

    ranks: int
    trained: int
    frozen: int
    weight_bytes: int
    activations: int
    images: int
    terms: int
    passes: int
    moments: int
    averages: int
    backup: int
    moves: int
    local: bool
    masters: bool
    autocast: bool
    bucket: int
    live: int
    looks: int = 0
    exchanged: int = 0


def count_classes(config: RunConfig) -> int:
    """Classes of a recipe's training set.

    Raises:
        ConfigError: where it cannot be opened.
    """
    try:
        return len(open_configured(config.data.train, "data.train", need_classes=True).classes)
    except ConfigError as error:
        raise ConfigError(f"{error}; --classes C plans without it") from None


def plan_recipe(config: RunConfig, num_classes: int) -> list[StagePlan]:
    """A plan for every ZeRO stage of a config with `train.workers` ranks."""
    load = describe_load(config, num_classes)
    return [plan_stage(stage, load) for stage in STAGES]


def choose_stage(config: RunConfig, num_classes: int, memory: float) -> RunConfig:
    """A config with the first ZeRO stage that fits, and that its other keys permit, where it says `auto`.

    Args:
        config: of a run; where the number of workers may change, the stage fits with the fewest.
        num_classes: C.
        memory: bytes that a rank may use.

    Raises:
        ConfigError: where no stage fits.
    """
    if config.train.zero_stage != "auto":
        return config
    fewest = {"train.workers": config.worker_counts[0], "train.min_workers": None}
    plans = plan_recipe(override_config(config, fewest), num_classes)
    for plan in plans:
        with suppress(ConfigError):  # another key refuses the stage
            if plan.fits(memory):
                return override_config(config, {"train.zero_stage": plan.stage})
    needs = ", ".join(f"ZeRO-{plan.stage} {plan.total / GIB:.3g}" for plan in plans)
    raise ConfigError(
        f"train.zero_stage: got auto, but no stage is permitted and fits into {memory / GIB:.3g} GiB a rank "
        f"({needs}); wanted more workers, or smaller micro-batches (train.accumulation)"
    )


def images_per_pass(config: RunConfig) -> int:
    """Images of a micro-batch on one rank."""
    return config.train.batch_size // (config.train.workers * config.train.accumulation)


def describe_load(config: RunConfig, num_classes: int) -> Load:
    """What a run will hold, from its config and a trace of its model without data."""
    with shapes_only():
        model = build_model(config.model, num_classes, config.data.image_size)
    terms, together = (
        active_terms(config.objective),
        concatenates_views(config.train.concatenate_views, model),
    )
    passes = forward_passes(terms, together)
    looks = forward_passes([term for term in terms if not term.attacks], together)
    precision = config.train.precision
    if precision == "bf16_weights":
        model.bfloat16()
    model.autocast_dtype = None if precision == "fp32" else torch.bfloat16
    images = images_per_pass(config) * max(images_of_pass(groups) for groups in passes)
    footprint = measure_footprint(model, config.data.image_size, images, config.train.checkpoint_activations)
    return _load(config, footprint, len(passes), len(looks))


def _load(config: RunConfig, model: Footprint, passes: int, looks: int) -> Load:
    backups = [first_pass_bytes(config), second_pass_bytes(config)]
    zero: dict[str, Any] = deepspeed_config(config, model.trained)["zero_optimization"]
    looked_at = {(term.view, term.name if term.attacks else None) for term in active_terms(config.objective)}
    pixels = config.train.batch_size // config.train.workers * 3 * config.data.image_size**2
    images = FP32 * pixels * sum(view.versions for view, _ in looked_at)
    # Chosen images are copied, and may come from other ranks.
    chosen = round(config.sharpness.share * images) if config.sharpness.variant == "esam" else 0
    stateless = config.optimizer.name == "sgd" and not config.optimizer.momentum
    return Load(
        ranks=config.train.workers,
        trained=model.trained,
        frozen=model.frozen,
        weight_bytes=2 if config.train.precision == "bf16_weights" else FP32,
        activations=model.activations,
        images=images + chosen,
        terms=passes * config.train.accumulation,
        passes=2 if backups[1] else 1,
        moments=0 if stateless else MOMENTS[config.optimizer.name],
        averages=kept_bytes(config),
        backup=max(backups),
        moves=sum(size > 0 for size in backups),
        local=config.sharpness.sync == "local",
        masters=config.train.precision == "bf16_weights",
        autocast=config.train.precision != "fp32",
        bucket=zero["reduce_bucket_size"],
        live=int(zero.get("stage3_max_live_parameters", 1e9)),
        looks=looks * config.train.accumulation if chosen else 0,
        exchanged=chosen,
    )


def plan_stage(stage: int, load: Load) -> StagePlan:
    """Memory and communication of one ZeRO stage."""
    kept = _kept(stage, load)
    moments = {
        "backward": _backward(stage, load),
        "reduction": _reduction(stage, load),
        "step": _step(stage, load),
    }
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    return StagePlan(stage, moment, kept | moments[moment], _communication(stage, load))


def _owned(stage: int, load: Load) -> int:
    """Weights whose fp32 master and method state a rank keeps."""
    return load.trained if stage == 0 else -(-load.trained // load.ranks)


def _kept(stage: int, load: Load) -> dict[str, int]:
    """What stays from step to step."""
    owned, whole = _owned(stage, load), load.trained + load.frozen
    weights = load.weight_bytes * (whole if stage < 3 else -(-whole // load.ranks))
    masters = FP32 * owned if stage > 0 or load.masters else 0
    return {
        "weights": weights + masters,
        "optimizer": FP32 * load.moments * owned,
        "averages": load.averages * owned,
    }


def _backward(stage: int, load: Load) -> dict[str, int]:
    """At the beginning of a backward pass: all activations, and the gradients of the terms before."""
    size, earlier = load.weight_bytes, load.terms > 1
    gradients = {0: load.trained, 1: load.trained}.get(stage, _owned(stage, load)) * earlier
    buffers = 0
    if stage == 3:
        gathered = min(load.trained + load.frozen, load.live)
        # Besides the gathered weights autograd holds those that the forward pass used, where it made no
        # copies of them (which would be among the activations).
        held = 0 if load.autocast else load.trained + load.frozen
        buffers = size * (gathered + held + min(load.bucket, load.trained))
        gradients = _owned(stage, load)
    backup = load.backup * (load.trained if load.local else _owned(stage, load))
    return {
        "SAM backup": backup,
        "gradients": size * gradients,
        "activations": load.activations + load.images,
        "buffers": buffers,
    }


def _reduction(stage: int, load: Load) -> dict[str, int]:
    """While gradients are averaged over ranks: they, and copies in the bucket that travels."""
    size, owned = load.weight_bytes, _owned(stage, load)
    bucket = min(load.bucket, load.trained)
    in_flight = {
        0: load.trained + bucket,
        1: load.trained + bucket,
        2: 2 * bucket + (owned if load.terms > 1 or load.trained > bucket else 0),
        3: owned + min(load.trained + load.frozen, load.live) + 2 * bucket + bucket // load.ranks,
    }[stage]
    backup = _backward(stage, load)["SAM backup"]
    return {"SAM backup": backup, "gradients": size * in_flight, "activations": load.images, "buffers": 0}


def _step(stage: int, load: Load) -> dict[str, int]:
    """In the base optimiser: averaged gradients, their flat copy, and its own temporaries."""
    owned = _owned(stage, load)
    flat = 0 if stage == 0 else FP32 * owned
    return {
        "SAM backup": 0,
        "gradients": load.weight_bytes * owned,
        "activations": load.images,
        "buffers": flat + FP32 * owned,
    }


def _communication(stage: int, load: Load) -> int:
    """Bytes that a rank sends in an update: with rings, (R - 1) / R of what is reduced or gathered."""
    share = (load.ranks - 1) / load.ranks
    size, whole = load.weight_bytes * load.trained, load.weight_bytes * (load.trained + load.frozen)
    reductions = load.passes - load.local  # a local ascent reduces nothing
    if stage == 0:
        return round(share * (2 * size * reductions + load.exchanged))
    gathers = 1 if load.local else 1 + load.moves  # after the step, and after the ascent
    if stage < 3:
        reduced = reductions * (load.terms if stage == 2 else 1)
        return round(share * (size * (reduced + gathers) + load.exchanged))
    # Every forward pass gathers all weights; the backward pass does so again unless they are all kept.
    again = 2 if load.trained + load.frozen > load.live else 1
    gradients = load.terms * load.passes * (size + again * whole)
    return round(share * (gradients + load.looks * whole + load.exchanged))
