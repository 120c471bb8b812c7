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

    crop: Literal["pad", "resized"] = Field(
        "pad", description="pad and crop (CIFAR), or cut a random part and resize it (ImageNet)"
    )
    crop_scale: tuple[float, float] = Field(
        (0.08, 1.0), description="smallest and largest share of the area that a resized crop cuts"
    )
    crop_ratio: tuple[float, float] = Field(
        (3 / 4, 4 / 3), description="smallest and largest width over height of a resized crop"
    )
    crop_padding: int = Field(4, ge=0, description="zero pixels added on each side before the random crop")
    flip: bool = Field(True, description="horizontal flip with probability 1/2")

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale: got {self.crop_scale}, wanted 0 < low <= high <= 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio: got {self.crop_ratio}, wanted 0 < low <= high")
        return self


class DataConfig(Section):
    """Where the pictures are. Paths may hold `${VARIABLE}`; `builtin:digits/...` ships with rtk."""

    train: str = Field(description="Parquet file or folder with the training images")
    validation: str | None = Field(None, description="Parquet for model selection; null: held out of train")
    validation_fraction: Fraction = Field(0.1, description="share of train held out where validation is null")
    test: str | None = Field(None, description="Parquet of the in-distribution test set")
    near_ood: dict[str, str] = Field(default_factory=dict, description="near-OOD test sets, name: path")
    far_ood: dict[str, str] = Field(default_factory=dict, description="far-OOD test sets, name: path")
    validation_near_ood: dict[str, str] = Field(
        default_factory=dict, description="near-OOD sets for val/ metrics, name: path; never test sets"
    )
    validation_far_ood: dict[str, str] = Field(
        default_factory=dict, description="far-OOD sets for val/ metrics, name: path; never test sets"
    )
    outliers: str | None = Field(None, description="Parquet of images of no class, for OpenMix")
    validation_ood: str | None = Field(
        None, description="OOD images to tune scores and thresholds on, never to test on"
    )
    mixing: str | None = Field(None, description="Parquet of PixMix pictures; null: fractals rendered by rtk")
    image_size: PositiveInt = Field(32, description="side in pixels of the images that the model sees")
    crop_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of an evaluation image's side that is kept (timm: crop_pct)",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="resizing of evaluation images (timm: interpolation)"
    )
    decode_size: PositiveInt | None = Field(
        None,
        description="side of decoded training images; null: image_size, or 8/7 of it for resized crops",
    )
    stream: bool = Field(
        False, description="decode training images anew in every epoch, for sets that do not fit into memory"
    )
    shuffle_rows: PositiveInt = Field(
        4096, description="streaming: decoded images that are shuffled, and mixed with each other, at a time"
    )
    on_error: Literal["fail", "skip"] = Field(
        "fail", description="an image cannot be decoded: stop, or leave it out and list it in skipped.csv"
    )
    max_errors: float = Field(
        0.01, ge=0, description="most images to skip, a share of the set below 1, else a number"
    )
    views_on: Literal["cpu", "device"] = Field(
        "cpu", description="where views are made: on the worker's CPU threads or on its accelerator"
    )
    train_rows: PositiveInt | None = Field(None, description="use the first N training rows; null: all")
    remainder: Literal["drop", "pad"] = Field(
        "drop", description="last incomplete global batch of an epoch: drop it, or pad by wrap-around"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)

    @property
    def decoded_side(self) -> int:
        """Side that training images are decoded to."""
        wide = self.augment.crop == "resized"
        return self.decode_size or (round(self.image_size * 8 / 7) if wide else self.image_size)

    @model_validator(mode="after")
    def _sizes(self) -> DataConfig:
        if self.decoded_side < self.image_size or (
            self.augment.crop == "pad" and self.decoded_side != self.image_size
        ):
            wanted = "at least image_size" if self.augment.crop == "resized" else "image_size, or null"
            raise ValueError(f"data.decode_size: got {self.decode_size}, wanted {wanted} ({self.image_size})")
        if self.stream and self.validation is None:
            raise ValueError("data.stream: needs data.validation, for rows are not held out of a stream")
        return self


class LoraConfig(Section):
    """Low-rank adapters on a transformer's linear layers; all other weights of the backbone are frozen."""

    rank: int = Field(0, ge=0, description="rank of the adapters; 0: none")
    alpha: PositiveInt = Field(16, description="the adapters' output is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("qkv", "proj", "fc1", "fc1_g", "fc1_x", "fc2"),
        description="linear layers inside the blocks, by name",
    )


class ModelConfig(Section):
    """Backbone, head, and the weights to start from.

    `resnet18`, `resnet110` and `wrn28_10` have the CIFAR stem; `resnet18_imagenet`, `resnet50` and `dinov3_*`
    are timm's; `timm/NAME` is any other of timm's.
    """

    name: str = Field("resnet18", description="backbone, such as resnet18, wrn28_10, dinov3_l16 or timm/NAME")
    width: PositiveInt | None = Field(
        None, description="channels of the first stage (resnet18, resnet110, wrn28_10); null: as published"
    )
    pool: Literal["token", "avg"] | None = Field(
        None, description="features of a transformer: class token or mean patch; null: token for dinov3"
    )
    head: Literal["linear", "cosine"] = Field("linear", description="classifier on the features")
    temperature: PositiveFloat = Field(8.0, description="scale of the cosine head's logits")
    weights: str | None = Field(
        None, description="Meta's .pth, a safetensors file or folder, or an rtk run; null: random"
    )
    head_weights: Literal["load", "new"] = Field(
        "load", description="load: the weights hold a fitting head; new: it is drawn at random"
    )
    drop_path: Fraction = Field(
        0.0, description="chance to skip the last block while training; less before it"
    )
    freeze_layers: int = Field(
        0, ge=0, description="layers that are not trained: 1 the stem, then the blocks"
    )
    lora: LoraConfig = Field(default_factory=LoraConfig)
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


class CutMixConfig(Section):
    """Cross-entropy of images with a box of another pasted in, beside the clean term (Yun et al. 2019)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    alpha: PositiveFloat = Field(1.0, description="both parameters of the Beta law of the share that is left")


class AugMixConfig(Section):
    """Jensen-Shannon divergence of predictions for an image and two AugMix views (Hendrycks et al. 2020)."""

    weight: Weight = Field(0.0, description="factor of the term (12 in the paper); 0 switches it off")
    severity: PositiveFloat = Field(3.0, description="largest level of an augmentation, of 10")
    alpha: PositiveFloat = Field(1.0, description="parameter of the Dirichlet and Beta laws of the mixing")
    width: PositiveInt = Field(3, description="chains of augmentations that are mixed")
    depth: PositiveInt = Field(3, description="most augmentations in a chain")
    all_ops: bool = Field(False, description="add the four ops that overlap with common-corruption tests")


class OpenMixConfig(Section):
    """Cross-entropy of images mixed with outliers of `data.outliers` (after OpenMix, Zhu et al. 2023)."""

    weight: Weight = Field(0.0, description="factor of the term; 0 switches it off")
    alpha: PositiveFloat = Field(10.0, description="both parameters of the Beta law of the image's share")


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
    cutmix: CutMixConfig = Field(default_factory=CutMixConfig)
    augmix: AugMixConfig = Field(default_factory=AugMixConfig)
    openmix: OpenMixConfig = Field(default_factory=OpenMixConfig)
    rat: RatConfig = Field(default_factory=RatConfig)

    @model_validator(mode="after")
    def _some_term(self) -> ObjectiveConfig:
        if self.rat.weight and not self.cross_entropy.weight:
            raise ValueError("objective.rat.weight: needs objective.cross_entropy.weight above 0, got 0")
        if not any(
            getattr(self, name).weight
            for name in ("cross_entropy", "regmixup", "regpixmix", "cutmix", "openmix")
        ):
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
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="a layer's learning rate as a share of the next one's; 1: all the same"
    )
    clip_norm: PositiveFloat | None = Field(
        None, description="largest global gradient norm; null: no clipping"
    )


class SharpnessConfig(Section):
    """Sharpness-aware minimisation around the base optimiser."""

    variant: Literal["none", "sam", "asam", "fsam"] = "none"
    rho: PositiveFloat = Field(0.05, description="radius of the ascent step")
    sigma: Weight = Field(1.0, description="F-SAM: share of the gradient average that is taken off")
    lmbda: Fraction = Field(0.9, description="F-SAM: decay of the gradient average")
    sync: Literal["global", "local"] = Field(
        "global",
        description="local: each worker ascends along its own gradient (m-SAM) and saves one reduction",
    )
    every: PositiveInt = Field(1, description="ascend at every so many steps; the others are plain steps")
    redraw_views: bool = Field(
        False, description="draw the mixed and PixMix views anew for the second pass, as the published code"
    )


class ScheduleConfig(Section):
    """Learning rate over the run."""

    name: Literal["cosine", "constant"] = "cosine"
    warmup: Duration = Field("0ep", description="linear warm-up from 0")
    final_fraction: Fraction = Field(0.0, description="learning rate at the end, as a share of the peak")


class AveragingConfig(Section):
    """Averaged weights, used for validation, the best checkpoint and evaluation."""

    kind: Literal["none", "ema", "swa"] = "none"
    decay: Fraction = Field(0.9998, description="EMA decay after the ramp")
    ramp: PositiveFloat = Field(2000.0, description="updates: decay_t = decay * (1 - exp(-t / ramp))")
    start: Duration = Field("0ep", description="SWA: training before the first averaged model")
    every: Duration = Field("1ep", description="SWA: from one averaged model to the next")
    reestimate_batchnorm: bool = Field(True, description="recompute BatchNorm statistics for the average")


class TrainConfig(Section):
    """How the run is carried out."""

    duration: Duration = Field("200ep", description="length, in epochs (20ep) or steps (1000steps)")
    batch_size: PositiveInt = Field(128, description="images a step, over all workers")
    accumulation: PositiveInt = Field(
        1, description="micro-batches that each worker's share of a batch is cut into"
    )
    workers: PositiveInt = Field(
        1, description="Ray Train workers (one accelerator each, where there are any)"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    precision: Literal["auto", "fp32", "bf16", "bf16_weights"] = Field(
        "auto",
        description="bf16: autocast, the weights stay fp32 (auto: where the machine has the instructions); "
        "bf16_weights: the model in bf16 too, with fp32 masters on the shards (not with BatchNorm)",
    )
    channels_last: bool = Field(True, description="NHWC memory layout for convolutions")
    concatenate_views: Literal["auto"] | bool = Field(
        "auto", description="all views in one forward pass; auto: where the model has no BatchNorm"
    )
    checkpoint_activations: bool = Field(
        False, description="keep one activation a block and compute the others again: less memory, slower"
    )
    compile: bool = Field(False, description="torch.compile the backbone (not under ZeRO-3)")
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
    checkpoints: bool = Field(
        True, description="upload the checkpoints of a finished run and register them as models"
    )


class EvaluateConfig(Section):
    """What `rtk evaluate` measures."""

    scores: tuple[str, ...] = Field(
        ("sure_plus",), description="scores compared; sure_plus: those of SURE+'s tables; all: every one"
    )
    confidence: str = Field("msp", description="score that says whether a prediction is right")
    ood_score: str = Field("knn", description="score that the headline OOD and DS metrics use")
    validation_score: Literal["msp", "max_logit", "energy", "entropy", "gen", "margin"] = Field(
        "energy", description="OOD score of the val/ metrics of each epoch: one of the logits alone"
    )
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
        micro_batches = self.train.workers * self.train.accumulation
        if self.train.batch_size % micro_batches:
            raise ValueError(
                f"train.batch_size: got {self.train.batch_size}, "
                f"wanted a multiple of train.workers times train.accumulation ({micro_batches})"
            )
        self._check_local_ascent()
        if self.train.compile and self.train.zero_stage == 3:
            raise ValueError(
                "train.compile: got true with train.zero_stage 3, which gathers weights by hooks"
            )
        owned = [key for key in DEEPSPEED_OWNED if key in self.deepspeed]
        if owned:
            raise ValueError(f"deepspeed.{owned[0]}: rtk sets this key itself, wanted it left out")
        _check_zero(self.deepspeed.get("zero_optimization", {}))
        if self.objective.openmix.weight and self.data.outliers is None:
            raise ValueError("data.outliers: got null, wanted a Parquet of outliers for objective.openmix")
        if self.data.validation is None and not self.data.validation_fraction:
            raise ValueError("data.validation_fraction: got 0, wanted a share above 0 (or data.validation)")
        return self

    def _check_local_ascent(self) -> None:
        if self.sharpness.sync == "global":
            return
        if self.sharpness.variant == "fsam":
            raise ValueError(
                "sharpness.sync: got local with variant fsam, whose gradient average is over all workers; "
                "wanted sharpness.variant sam or asam"
            )
        if self.train.zero_stage > 1:
            raise ValueError(
                f"sharpness.sync: got local, but ZeRO-{self.train.zero_stage} reduces gradients within the "
                "backward pass, so that no worker has its own; wanted train.zero_stage 0 or 1"
            )
        if self.train.precision == "bf16_weights":
            raise ValueError(
                "sharpness.sync: got local, which moves the model's own weights; in bf16 (train.precision) "
                "a small ascent is rounded away"
            )


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
