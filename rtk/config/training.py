"""`optimizer`, `sharpness`, `schedule`, `averaging` and `train`: how weights are found."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rtk.config.sections import (
    Duration,
    Fraction,
    Interval,
    PositiveFloat,
    PositiveInt,
    Section,
    Time,
    Weight,
    duration_steps,
)


class OptimizerConfig(Section):
    """Base optimiser."""

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimiser")
    lr: PositiveFloat = Field(0.05, description="peak learning rate")
    momentum: Fraction = Field(0.9, description="SGD momentum")
    nesterov: bool = Field(False, description="SGD: Nesterov's momentum")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="AdamW moment decays")
    weight_decay: Weight = Field(
        5e-4, description="factor of the weights in the gradient (sgd), or decoupled from it (adamw)"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="a layer's learning rate as a share of the next one's; 1: all the same"
    )
    head_scale: PositiveFloat = Field(
        1.0, description="factor on the learning rate of the head (ASCOOD's code for CIFAR-100: 0.05)"
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="largest global gradient norm; null: no clipping"
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerConfig:
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("optimizer.nesterov: needs optimizer.momentum above 0, got 0")
        return self


def images_of_share(share: float, images: int) -> int:
    """How many of some images a share of them is, rounded down."""
    return int(share * images + 1e-9)  # 0.29 * 100 is less than 29


class SharpnessConfig(Section):
    """Sharpness-aware minimisation around the base optimiser."""

    variant: Literal["none", "sam", "asam", "fsam", "looksam", "msam", "esam"] = Field(
        "none",
        description="SAM (Foret 2021), adaptive (Kwon 2021) or Friendly SAM (Li 2024): two passes per step; "
        "looksam (Liu 2022): two in one of `every` steps, whose outcome the others use again; msam (Becker "
        "2024): one, at weights moved along the momentum; esam (Du 2022): the second learns from `share` of "
        "the images alone",
    )
    rho: PositiveFloat = Field(0.05, description="radius of the ascent step, L2 norm over all weights")
    sigma: Weight = Field(1.0, description="F-SAM: share of the gradient average that is taken off")
    lmbda: Fraction = Field(0.9, description="F-SAM: decay of the gradient average")
    sync: Literal["global", "local"] = Field(
        "global",
        description="local: each worker ascends along its own gradient (m-SAM) and saves one reduction",
    )
    alpha: Weight = Field(
        0.7,
        description="LookSAM: length of what the steps between add, as a share of the gradient's; what SAM "
        "itself adds grows with rho, so a smaller rho wants a smaller alpha",
    )
    every: PositiveInt = Field(
        1,
        description="ascend in one step of this many; the others are plain steps, which is known to lose "
        "accuracy (arXiv 2203.02714), or with looksam (5 there) use the last ascent again",
    )
    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="ESAM: share of a batch, over all workers, that the second pass learns from: the images "
        "whose loss rose most",
    )
    perturbed: float = Field(
        0.6,
        gt=0,
        le=1,
        description="ESAM: chance of each weight tensor to be moved, drawn anew in each step; 1: all are",
    )
    redraw_views: Literal["mixup"] | bool = Field(
        False,
        description="draw mixed, PixMix and AugMix views anew for the second pass; mixup: RegMixup's alone, "
        "as the published code",
    )

    @model_validator(mode="after")
    def _chooses_from_the_same_views(self) -> SharpnessConfig:
        if self.variant == "esam" and self.redraw_views:
            raise ValueError(
                "sharpness.redraw_views: got other views for the second pass with variant esam, which "
                "compares the loss of each image with that in the first; wanted false"
            )
        return self

    @model_validator(mode="after")
    def _looks_less_often(self) -> SharpnessConfig:
        if self.variant == "looksam" and self.every == 1:
            raise ValueError(
                "sharpness.every: got 1 with variant looksam, which is SAM at its full price then; "
                "wanted 2 or more (5 in its paper)"
            )
        return self


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "constant"] = Field("cosine", description="course after the warm-up")
    warmup: Duration = Field("0ep", description="warm-up from 0")
    warmup_shape: Literal["linear", "cosine"] = Field(
        "linear", description="course of the warm-up; cosine: half of one, as RAT's code"
    )
    final_fraction: Fraction = Field(0.0, description="learning rate at the end, as a share of the peak")
    swa_lr: PositiveFloat | None = Field(
        None,
        description="learning rate while averaging.kind swa averages, after averaging.start (FMFP, SURE); "
        "null: the course goes on",
    )
    swa_anneal: Duration = Field("10ep", description="time from the course's rate to swa_lr, along a cosine")


class AveragingConfig(Section):
    """Averaged weights, used for validation, the best checkpoint and evaluation."""

    kind: Literal["none", "ema", "swa"] = Field(
        "none", description="none, moving average of every step, or equal average of every `every`"
    )
    decay: Fraction = Field(0.9998, description="EMA decay after the ramp")
    ramp: PositiveFloat = Field(
        2000.0, description="updates over which the EMA's decay rises: decay_t = decay * (1 - exp(-t / ramp))"
    )
    start: Duration = Field("0ep", description="SWA: training before the first averaged model")
    every: Duration = Field("1ep", description="SWA: from one averaged model to the next")
    reestimate_batchnorm: bool = Field(True, description="recompute BatchNorm statistics for the average")

    @model_validator(mode="after")
    def _some_interval(self) -> AveragingConfig:
        if self.kind == "swa" and duration_steps(self.every, 1) == 0:
            raise ValueError(f"averaging.every: got {self.every!r}, wanted at least one step")
        return self


class TrainConfig(Section):
    """How the run is carried out."""

    duration: Duration = Field("200ep", description="length, in epochs (20ep) or steps (1000steps)")
    batch_size: PositiveInt = Field(128, description="images per step, over all workers")
    accumulation: PositiveInt = Field(
        1, description="micro-batches that each worker's share of a batch is cut into"
    )
    workers: PositiveInt = Field(
        1,
        description="Ray Train workers (one accelerator each, where there are any); {min: 2, max: 8} is "
        "short for min_workers too",
    )
    min_workers: PositiveInt | None = Field(
        None,
        description="go on with as few as this where nodes are lost, and with more again, after a "
        "checkpoint, when there are; batches, views and learning rates stay the same; null: with exactly "
        "`workers`",
    )
    wait_for_workers: Time | None = Field(
        None,
        description="time to wait for all `workers` to be up (a cluster that grows is asked for them) before "
        "the run starts with what is there; null: none",
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        1, description="DeepSpeed ZeRO stage; auto: the first that `rtk plan` finds to fit into memory"
    )
    precision: Literal["auto", "fp32", "bf16", "bf16_weights"] = Field(
        "auto",
        description="bf16: autocast, the weights stay fp32 (auto: where that is faster: the device "
        "has the instructions, and a CPU no depthwise convolutions to run); "
        "bf16_weights: the model in bf16 too, with fp32 masters on the shards (not with BatchNorm)",
    )
    channels_last: bool = Field(True, description="NHWC memory layout for convolutions")
    concatenate_views: Literal["auto"] | bool = Field(
        "auto", description="all views in one forward pass; auto: where the model has no BatchNorm"
    )
    checkpoint_activations: bool = Field(
        False, description="keep one activation per block and compute the others again: less memory, slower"
    )
    compile: bool = Field(False, description="torch.compile the backbone (not under ZeRO-3)")
    threads: PositiveInt | None = Field(None, description="CPU threads per worker; null: cores / workers")
    select: Literal["val/accuracy", "val/aurc", "val/nll"] = Field(
        "val/accuracy", description="validation metric that picks the best checkpoint"
    )
    checkpoint_every: Interval = Field(
        1,
        description="epochs between checkpoints, the best included; or a time (10min), in the middle of an "
        "epoch too, and every epoch that is the best so far",
    )
    checkpoints_kept: PositiveInt = Field(
        2,
        description="newest checkpoints that stay beside the best one; more of them are for an ensemble of "
        "snapshots (rtk evaluate RUN --ensemble --snapshots)",
    )
    verify: Literal["all", "sampled"] = Field(
        "all",
        description="what is read of a checkpoint's files to see that they are what was written, before they "
        "are loaded: all, or of files above 256 MiB four blocks of 64 (rtk checkpoints --verify reads all)",
    )
    background_saves: bool = Field(
        True, description="train on while a checkpoint is written, from a copy of it in main memory"
    )
    max_restarts: int = Field(2, ge=0, description="times a lost worker is replaced before the run fails")
    hang_timeout: Time | None = Field(
        "5min",
        description="time after which workers, none of which gets anywhere, are ended and started again from "
        "the last checkpoint; null: never",
    )

    @model_validator(mode="before")
    @classmethod
    def _range_of_workers(cls, tree: Any) -> Any:
        """`workers: {min: 2, max: 8}` is short for two keys."""
        wanted = tree.get("workers") if isinstance(tree, dict) else None
        if not isinstance(wanted, dict):
            return tree
        if wanted.keys() != {"min", "max"}:
            raise ValueError(f"train.workers: got {wanted}, wanted a number, or {{min: 2, max: 8}}")
        return tree | {"workers": wanted["max"], "min_workers": wanted["min"]}

    @model_validator(mode="after")
    def _fewest_workers(self) -> TrainConfig:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"train.min_workers: got {self.min_workers}, wanted at most train.workers ({self.workers})"
            )
        return self
