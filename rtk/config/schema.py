"""The typed tree of everything a run can be told: one frozen pydantic model per part.

Each field carries its unit and its meaning in `description`; `rtk recipes validate` and the
misspelt-key messages read them from here, so there is no second list of keys anywhere.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DURATION = re.compile(r"^(\d+)(ep|steps)$")

# Set by rtk from the rest of the config; two sources of truth would drift apart.
DEEPSPEED_OWNED = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "fp16",
    "bf16",
    "torch_autocast",
    "optimizer",
    "scheduler",
)


def _check_duration(text: Any) -> str:
    if not isinstance(text, str) or not DURATION.match(text):
        raise ValueError("wanted a number with its unit, such as 20ep or 1000steps")
    return text


Duration = Annotated[str, BeforeValidator(_check_duration)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def duration_steps(text: str, steps_per_epoch: int) -> int:
    """Number of optimiser steps in a duration such as `20ep` or `1000steps`."""
    match = DURATION.match(text)
    if match is None:
        raise ValueError(f"duration: got {text!r}, wanted a number with its unit, such as 20ep or 1000steps")
    count = int(match.group(1))
    return count * steps_per_epoch if match.group(2) == "ep" else count


class Section(BaseModel):
    """Base of every config block: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AugmentConfig(Section):
    """Geometric augmentation of the clean view (and of the mixing partner's)."""

    crop_padding: int = Field(4, ge=0, description="zero pixels added on each side before the random crop")
    flip: bool = Field(True, description="horizontal flip with probability 1/2")


class DataConfig(Section):
    """Where the pictures are. Paths may hold `${VARIABLE}`; `builtin:digits/...` ships with rtk."""

    train: str = Field(description="Parquet file or folder with the training images")
    validation: str | None = Field(None, description="Parquet for model selection; null: held out of train")
    validation_fraction: Fraction = Field(0.1, description="share of train held out where validation is null")
    test: str | None = Field(None, description="Parquet of the in-distribution test set")
    near_ood: dict[str, str] = Field(default_factory=dict, description="near-OOD test sets, name: path")
    far_ood: dict[str, str] = Field(default_factory=dict, description="far-OOD test sets, name: path")
    validation_ood: str | None = Field(
        None, description="OOD images to tune scores and thresholds on, never to test on"
    )
    mixing: str | None = Field(None, description="Parquet of PixMix pictures; null: fractals rendered by rtk")
    image_size: PositiveInt = Field(32, description="side in pixels that images are decoded to")
    train_rows: PositiveInt | None = Field(None, description="use the first N training rows; null: all")
    remainder: Literal["drop", "pad"] = Field(
        "drop", description="last incomplete global batch of an epoch: drop it, or pad by wrap-around"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)


class ModelConfig(Section):
    """Backbone and head. `resnet18` is the CIFAR-stem network; `timm/NAME` is any timm backbone."""

    name: str = Field("resnet18", description="resnet18 (CIFAR stem) or timm/NAME")
    width: PositiveInt = Field(64, description="channels of the first stage (resnet18)")
    head: Literal["linear", "cosine"] = Field("linear", description="classifier on the features")
    temperature: PositiveFloat = Field(8.0, description="scale of the cosine head's logits")
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="per-channel mean, images in [0, 1]"
    )
    std: tuple[float, float, float] = Field((0.5, 0.5, 0.5), description="per-channel standard deviation")
    freeze_batchnorm: bool = Field(False, description="keep BatchNorm in evaluation mode while training")


class CrossEntropyConfig(Section):
    """Cross-entropy of the clean view."""

    weight: Weight = Field(1.0, description="factor of the term; 0 switches it off")
    label_smoothing: Fraction = Field(0.0, description="mass spread evenly over all classes")


class RegMixupConfig(Section):
    """Cross-entropy of mixed pairs, beside the clean term (RegMixup, Pinto et al. 2022)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    beta: PositiveFloat = Field(10.0, description="both parameters of the Beta law of lambda")


class RegPixMixConfig(Section):
    """Cross-entropy of PixMix views, beside the clean term (SURE+, arXiv 2603.03903)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    k: PositiveInt = Field(4, description="most mixing rounds; each image draws 0..k")
    beta: PositiveFloat = Field(3.0, description="severity of the mixing: parameter of its Beta laws")
    severity: PositiveFloat = Field(3.0, description="largest level of an augmentation, of 10")
    all_ops: bool = Field(False, description="add the four ops that overlap with common-corruption tests")


class RatConfig(Section):
    """Cross-entropy of radius-aware perturbed inputs, beside the clean term (RAT, arXiv 2503.14783)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    eps: PositiveFloat = Field(0.001, description="largest change of a pixel value, images in [0, 1]")
    mode: Literal["rat", "at", "reverse_at"] = Field(
        "rat",
        description="rat: harder where right, easier where wrong; at: always harder; reverse_at: easier",
    )
    solver: Literal["fgsm", "pgd"] = Field("fgsm", description="one signed step, or several projected ones")
    steps: PositiveInt = Field(7, description="steps of pgd")
    step_size: PositiveFloat = Field(0.0003, description="size of a pgd step")


class ObjectiveConfig(Section):
    """Terms of the loss, by name; a term of weight 0 costs nothing."""

    cross_entropy: CrossEntropyConfig = Field(default_factory=CrossEntropyConfig)
    regmixup: RegMixupConfig = Field(default_factory=RegMixupConfig)
    regpixmix: RegPixMixConfig = Field(default_factory=RegPixMixConfig)
    rat: RatConfig = Field(default_factory=RatConfig)

    @model_validator(mode="after")
    def _some_term(self) -> ObjectiveConfig:
        if self.rat.weight and not self.cross_entropy.weight:
            raise ValueError("objective.rat.weight: needs objective.cross_entropy.weight above 0, got 0")
        if not (self.cross_entropy.weight or self.regmixup.weight or self.regpixmix.weight):
            raise ValueError("every term has weight 0, wanted at least one positive weight")
        return self


class OptimizerConfig(Section):
    """Base optimiser."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = Field(0.05, description="peak learning rate")
    momentum: Fraction = Field(0.9, description="SGD momentum")
    nesterov: bool = False
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW moment decays")
    weight_decay: Weight = 5e-4
    clip_norm: PositiveFloat | None = Field(
        None, description="largest global gradient norm; null: no clipping"
    )


class SharpnessConfig(Section):
    """Sharpness-aware minimisation around the base optimiser."""

    variant: Literal["none", "sam", "asam", "fsam"] = "none"
    rho: PositiveFloat = Field(0.05, description="radius of the ascent step")
    sigma: Weight = Field(1.0, description="F-SAM: share of the gradient average that is taken off")
    lmbda: Fraction = Field(0.9, description="F-SAM: decay of the gradient average")


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup: Duration = Field("0ep", description="linear warm-up from 0")
    final_fraction: Fraction = Field(0.0, description="learning rate at the end, as a share of the peak")


class AveragingConfig(Section):
    """Averaged weights, used for validation, the best checkpoint and evaluation."""

    kind: Literal["none", "ema"] = "none"
    decay: Fraction = Field(0.9998, description="EMA decay after the ramp")
    ramp: PositiveFloat = Field(2000.0, description="updates: decay_t = decay * (1 - exp(-t / ramp))")
    reestimate_batchnorm: bool = Field(True, description="recompute BatchNorm statistics for the average")


class TrainConfig(Section):
    """How the run is carried out."""

    duration: Duration = Field("200ep", description="length, in epochs (20ep) or steps (1000steps)")
    batch_size: PositiveInt = Field(128, description="images a step, over all workers")
    workers: PositiveInt = Field(
        1, description="Ray Train workers (one accelerator each, where there are any)"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 autocast where the machine has the instructions; weights stay fp32"
    )
    channels_last: bool = Field(True, description="NHWC memory layout for convolutions")
    threads: PositiveInt | None = Field(None, description="CPU threads a worker; null: cores / workers")
    select: Literal["val/accuracy", "val/aurc", "val/nll"] = Field(
        "val/accuracy", description="validation metric that picks the best checkpoint"
    )
    checkpoint_every: PositiveInt = Field(1, description="epochs between checkpoints, the best included")
    max_restarts: int = Field(2, ge=0, description="times a lost worker is replaced before the run fails")


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = Field(
        None, description="tracking server; null: mlflow.db (SQLite) in the output folder"
    )
    experiment: str = "rtk"


class EvaluateConfig(Section):
    """What `rtk evaluate` measures."""

    scores: tuple[str, ...] = Field(
        ("sure_plus",), description="scores compared; sure_plus: those of SURE+'s tables; all: every one"
    )
    confidence: str = Field("msp", description="score that says whether a prediction is right")
    ood_score: str = Field("knn", description="score that the headline OOD and DS metrics use")
    ds_method: Literal["exact", "grid"] = Field(
        "exact", description="DS metrics over every threshold pair, or on the published 1001 x 1001 grid"
    )
    protocol: Literal["fixed", "aps", "rat_splits"] = Field(
        "fixed",
        description="hyper-parameters of scores: fixed; aps: best AUROC against data.validation_ood; "
        "rat_splits: best AURC on 20 % of the test images, measured on the others, over 3 splits",
    )
    bootstrap: int = Field(0, ge=0, description="resamples behind 95 % confidence intervals; 0: none")
    risk: Fraction | None = Field(
        None, description="wanted share of wrong images among those accepted; null: no decision rule"
    )
    id_coverage: Fraction = Field(
        0.95,
        description="share of ID images that the tau_OOD of `risk` keeps where data.validation_ood is null",
    )
    knn_k: PositiveInt = Field(50, description="neighbour whose distance is the kNN score")
    batch_size: PositiveInt = Field(256, description="images a forward pass")
    actors: PositiveInt | None = Field(
        None, description="processes that predict; null: one a GPU, or one on a cluster without"
    )


class RunConfig(Section):
    """Everything a run depends on: the resolved tree is kept as `config.yaml` in the run's folder."""

    name: str = Field("run", pattern=r"^[\w.-]+$", description="recipe name, first part of the run's name")
    seed: int = Field(0, ge=0, lt=2**63, description="every random draw follows from it")
    output: str = Field("runs", description="folder that holds the run folders")
    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    sharpness: SharpnessConfig = Field(default_factory=SharpnessConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    averaging: AveragingConfig = Field(default_factory=AveragingConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="passed to DeepSpeed as it is")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.train.batch_size % self.train.workers:
            raise ValueError(
                f"train.batch_size: got {self.train.batch_size}, "
                f"wanted a multiple of train.workers ({self.train.workers})"
            )
        owned = [key for key in DEEPSPEED_OWNED if key in self.deepspeed]
        if owned:
            raise ValueError(f"deepspeed.{owned[0]}: rtk sets this key itself, wanted it left out")
        _check_zero(self.deepspeed.get("zero_optimization", {}))
        if self.data.validation is None and not self.data.validation_fraction:
            raise ValueError("data.validation_fraction: got 0, wanted a share above 0 (or data.validation)")
        return self


def _check_zero(zero: Any) -> None:
    """Options of DeepSpeed's ZeRO that rtk sets itself, or cannot keep exact, are refused by name."""
    if not isinstance(zero, dict):
        raise ValueError(f"deepspeed.zero_optimization: got {zero!r}, wanted a mapping")
    if "stage" in zero:
        raise ValueError(
            f"deepspeed.zero_optimization.stage: got {zero['stage']}, set train.zero_stage instead"
        )
    for key in ("offload_optimizer", "offload_param"):
        if key in zero:
            raise ValueError(
                f"deepspeed.zero_optimization.{key}: offloading is not supported, wanted it left out"
            )
