"""The typed tree of everything a run can be told: one frozen pydantic model per part.

Each field carries its meaning and unit in `description`; `rtk recipes keys`, the docs and the messages about
misspelt keys read them from here, so there is no second list of keys anywhere.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rtk.config.course import check_course, course_durations
from rtk.config.data import DataConfig
from rtk.config.guarantee import GuaranteeConfig, PredictionSetsConfig
from rtk.config.model import ModelConfig
from rtk.config.objective import ObjectiveConfig
from rtk.config.plugin_files import load_plugins
from rtk.config.sections import Fraction, PositiveInt, Scores, Section
from rtk.config.training import (
    AveragingConfig,
    OptimizerConfig,
    ScheduleConfig,
    SharpnessConfig,
    TrainConfig,
    images_of_share,
)

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


class TrackingConfig(Section):
    """MLflow."""

    uri: str | None = Field(
        None, description="tracking server; null: mlflow.db (SQLite) in the output folder"
    )
    experiment: str = Field("rtk", min_length=1, max_length=500, description="name of the MLflow experiment")
    checkpoints: bool = Field(
        True, description="upload the checkpoints of a finished run and register them as models"
    )


class EvaluateConfig(Section):
    """What `rtk evaluate` measures."""

    scores: Scores = Field(
        ("sure_plus",),
        description="scores compared; sure_plus: those of SURE+'s tables; recommended: those that suit the "
        "backbone; all: every one; evaluate.scores.NAME.PARAM=VALUE adds a score with a hyper-parameter",
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
    search_images: bool = Field(
        False,
        description="rat_splits also tunes scores that run the model: 15 temperatures, and for odin, "
        "doctor_perturbed and relu_perturbed 12 sizes of the step, each computed for all images",
    )
    bootstrap: int = Field(0, ge=0, description="resamples behind 95 % confidence intervals; 0: none")
    risk: Fraction | None = Field(
        None, description="wanted share of wrong images among those accepted; null: no decision rule"
    )
    id_coverage: Fraction = Field(
        0.95,
        description="share of ID images that the tau_OOD of `risk` keeps where data.validation_ood is null",
    )
    rule: Literal["rectangle", "linear", "monotone"] = Field(
        "rectangle",
        description="what accepts: two thresholds, or one of a score of both, fitted to validation ID and "
        "OOD images and taken where it is better; all three are compared then",
    )
    guarantee: GuaranteeConfig = Field(default_factory=GuaranteeConfig)
    prediction_sets: PredictionSetsConfig = Field(default_factory=PredictionSetsConfig)
    knn_k: PositiveInt = Field(50, description="neighbour whose distance is the kNN score")
    batch_size: PositiveInt = Field(256, description="images per forward pass")
    actors: PositiveInt | None = Field(
        None,
        description="processes that predict; null: one per GPU, or one without any; on one machine none for "
        "8 MiB of files",
    )

    @model_validator(mode="after")
    def _promises_have_a_risk(self) -> EvaluateConfig:
        if self.rule != "rectangle" and self.guarantee.per_class:
            raise ValueError("evaluate.rule: wanted rectangle with evaluate.guarantee.per_class")
        wanted = self.guarantee.chosen != "empirical" or self.guarantee.floor or self.prediction_sets.method
        if wanted and not self.risk:
            raise ValueError(
                "evaluate.risk: got none with evaluate.guarantee or evaluate.prediction_sets, wanted a share "
                "of wrong accepted images above 0"
            )
        return self


class RunConfig(Section):
    """Everything a run depends on: the resolved tree is kept as `config.yaml` in the run's folder."""

    name: str = Field("run", pattern=r"^[\w.-]+$", description="recipe name, first part of the run's name")
    seed: int = Field(0, ge=0, lt=2**63, description="every random draw follows from it")
    output: str = Field(
        "runs", description="folder that holds the run folders, or its URI (s3://BUCKET/runs, gs://)"
    )
    plugins: tuple[str, ...] = Field(
        (),
        description="your own Python files that register scores, terms, methods or backbones; relative to "
        "the recipe, or else to the working folder",
    )
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
    def _ood_images_where_wanted(self) -> RunConfig:
        wanted = {
            "evaluate.guarantee.ood_acceptance": self.evaluate.guarantee.ood_acceptance is not None,
            "evaluate.rule": self.evaluate.rule != "rectangle",
        }
        key = next((key for key, is_set in wanted.items() if is_set), None)
        if key is not None and self.data.validation_ood is None:
            raise ValueError(f"{key}: wanted data.validation_ood too, OOD images to find thresholds with")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        self._check_batch()
        self._check_elastic()
        self._check_local_ascent()
        without = self.optimizer.name == "sgd" and not self.optimizer.momentum
        if self.sharpness.variant == "msam" and without:
            raise ValueError(
                "sharpness.variant: got msam with optimizer.momentum 0, along which it moves; wanted more"
            )
        self._check_course()
        if self.train.compile and self.train.zero_stage == 3:
            raise ValueError(
                "train.compile: got true with train.zero_stage 3, which gathers weights by hooks"
            )
        owned = [key for key in DEEPSPEED_OWNED if key in self.deepspeed]
        if owned:
            raise ValueError(f"deepspeed.{owned[0]}: rtk sets this key itself, wanted it left out")
        _check_zero(self.deepspeed.get("zero_optimization", {}))
        self._check_terms()
        if self.schedule.swa_lr is not None and self.averaging.kind != "swa":
            raise ValueError(
                f"schedule.swa_lr: got {self.schedule.swa_lr:g} with averaging.kind {self.averaging.kind}, "
                "wanted averaging.kind swa, or null"
            )
        if self.data.validation is None and not self.data.validation_fraction:
            raise ValueError("data.validation_fraction: got 0, wanted a share above 0 (or data.validation)")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it is unpickled its plug-ins are loaded first: it may hold blocks of theirs.
        return _rebuild, (self.model_dump(mode="json"),)

    def _check_terms(self) -> None:
        for name in self.objective.needing("outliers"):
            if self.data.outliers is None:
                raise ValueError(
                    f"data.outliers: got null, wanted a Parquet of outliers for objective.{name}"
                )
        for name in self.objective.needing("reject_class"):
            if not self.model.reject_class:
                raise ValueError(
                    f"model.reject_class: got false, wanted true for objective.{name}, whose outliers are a "
                    "class of their own; the one that spreads them over all classes, once called openmix, is "
                    "objective.mixoe"
                )

        projected = self.objective.needing("projection")
        for name in self.objective.active():
            if (name in projected) != (self.model.head == "projection"):
                heads = "projection" if name in projected else "linear, cosine or abet"
                raise ValueError(
                    f"model.head: got {self.model.head}, wanted {heads} for objective.{name}, which reads "
                    f"{'projected features' if name in projected else 'logits'} in training"
                )

    def _check_course(self) -> None:
        """Here where all is in epochs, or all in steps; else once it is known how many steps an epoch has."""
        texts = [self.train.duration, *course_durations(self.objective).values()]
        if len({text.endswith("ep") for text in texts}) == 1:
            check_course(self.objective, self.train.duration, 1)

    @property
    def worker_counts(self) -> list[int]:
        """Numbers of workers that the run may have: those that cut a step's images evenly, ascending."""
        fewest, most = self.train.min_workers or self.train.workers, self.train.workers
        return [count for count in range(fewest, most + 1) if not self._cut_unevenly(count)]

    def _check_batch(self) -> None:
        for key, workers in {"workers": self.train.workers, "min_workers": self.train.min_workers}.items():
            for got in self._cut_unevenly(workers or 1):
                parts = (workers or 1) * self.train.accumulation
                raise ValueError(
                    f"{got}, wanted a multiple of train.{key} times train.accumulation ({parts})"
                )

    def _check_elastic(self) -> None:
        """Refuse what would make weights depend on how many workers there happened to be."""
        local = {"model.batchnorm": self.model.batchnorm, "sharpness.sync": self.sharpness.sync}
        key = next((key for key, value in local.items() if value == "local"), None)
        if self.train.min_workers is not None and key is not None:
            raise ValueError(
                f"train.min_workers: got {self.train.min_workers} with {key} local, whose results depend on "
                f"the number of workers; wanted another {key}, or train.min_workers null"
            )

    def _cut_unevenly(self, workers: int) -> list[str]:
        """What cannot be cut into equal parts, a micro-batch of each worker."""
        train, share = self.train, self.sharpness.share
        found = {f"train.batch_size: got {train.batch_size}": train.batch_size}
        if self.sharpness.variant == "esam":
            chosen = images_of_share(share, train.batch_size)
            found[f"sharpness.share: got {share:g}, {chosen} of train.batch_size {train.batch_size}"] = chosen
        return [
            text for text, images in found.items() if not images or images % (workers * train.accumulation)
        ]

    def _check_local_ascent(self) -> None:
        if self.sharpness.sync == "global":
            return
        kept = {"fsam": "gradient average", "looksam": "kept gradient", "msam": "momentum", "esam": "choice"}
        if self.sharpness.variant in kept:
            raise ValueError(
                f"sharpness.sync: got local with variant {self.sharpness.variant}, whose "
                f"{kept[self.sharpness.variant]} is over all workers; wanted sharpness.variant sam or asam"
            )
        if self.train.zero_stage in (2, 3):
            raise ValueError(
                f"sharpness.sync: got local, but ZeRO-{self.train.zero_stage} reduces gradients within the "
                "backward pass, so that no worker has its own; wanted train.zero_stage 0 or 1"
            )
        if self.train.precision == "bf16_weights":
            raise ValueError(
                "sharpness.sync: got local, which moves the model's own weights; in bf16 (train.precision) "
                "a small ascent is rounded away"
            )


def _rebuild(tree: dict[str, Any]) -> RunConfig:
    load_plugins(tree["plugins"])
    return RunConfig.model_validate(tree)


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
