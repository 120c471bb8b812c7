"""`data`: which images, how they are decoded, cropped and served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from rtk.config.sections import Fraction, PositiveInt, Section

GROUPS = ("near", "far")  # of OOD sets, as OpenOOD has them
# Keys that name images: a path, or paths by name.
SETS = (
    *("train", "validation", "test", "csid", "near_ood", "far_ood"),
    *("validation_near_ood", "validation_far_ood"),
    *("validation_ood", "calibration", "mixing", "outliers"),
)


def _set_name(name: str) -> str:
    """Sets lie under their names in a run's folder: none may lead out of it."""
    if not name or name.startswith(".") or any(letter in name for letter in "/\\\0"):
        raise ValueError("wanted a name without / and \\, and no dot in front")
    return name


SetName = Annotated[str, AfterValidator(_set_name)]


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
    validation_seed: int | None = Field(
        None, ge=0, lt=2**63, description="of the choice of the images held out; null: the run's seed"
    )
    test: str | None = Field(None, description="Parquet of the in-distribution test set")
    csid: dict[SetName, str] = Field(
        default_factory=dict,
        description="test sets of the run's classes under covariate shift, name: path; they count as "
        "in-distribution in the full-spectrum metrics",
    )
    near_ood: dict[SetName, str] = Field(default_factory=dict, description="near-OOD test sets, name: path")
    far_ood: dict[SetName, str] = Field(default_factory=dict, description="far-OOD test sets, name: path")
    validation_near_ood: dict[SetName, str] = Field(
        default_factory=dict, description="near-OOD sets for val/ metrics, name: path; never test sets"
    )
    validation_far_ood: dict[SetName, str] = Field(
        default_factory=dict, description="far-OOD sets for val/ metrics, name: path; never test sets"
    )
    outliers: str | None = Field(None, description="Parquet of images of no class, for OpenMix and MixOE")
    validation_ood: str | None = Field(
        None, description="OOD images to tune scores and thresholds on, never to test on"
    )
    calibration: str | None = Field(
        None,
        description="labelled images of the run's classes to choose the thresholds of evaluate.risk on, and "
        "to test what they promise; used for nothing else; null: the validation images",
    )
    mixing: str | None = Field(None, description="Parquet of mixing pictures; null: fractals rendered by rtk")
    mixing_size: PositiveInt | None = Field(
        None,
        description="side of decoded mixing pictures, cropped at random to image_size; null: 9/8 of that",
    )
    labels_by: Literal["name", "number"] = Field(
        "name",
        description="join validation and test sets to the training set by class names, or insist on numbers",
    )
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
    exif: Literal["apply", "ignore"] = Field(
        "apply",
        description="orientation that phones and cameras note beside a picture: apply turns it upright; "
        "ignore leaves it as stored, as torchvision and timm do",
    )
    jpeg: Literal["full", "reduced"] = Field(
        "full",
        description="reduced decodes a JPEG at a half, a quarter or an eighth, where that still has three "
        "times the side wanted: a fraction of the time for pictures of cameras and phones; full does all of "
        "it, as torchvision and timm",
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
    def validation_groups(self) -> dict[str, dict[str, str]]:
        """OOD sets of the validation metrics: paths by name, by group (`near`, `far`) that has any."""
        groups = {group: getattr(self, f"validation_{group}_ood") for group in GROUPS}
        return {group: sets for group, sets in groups.items() if sets}

    def with_paths(self, function: Callable[[str, str], str]) -> DataConfig:
        """The same with other paths: what a function makes of every key (`near_ood.NAME`) and path."""
        changed: dict[str, Any] = {}
        for name in SETS:
            value = getattr(self, name)
            if isinstance(value, dict):
                changed[name] = {inner: function(f"{name}.{inner}", path) for inner, path in value.items()}
            elif value is not None:
                changed[name] = function(name, value)
        return self.model_copy(update=changed)

    @property
    def decoded_side(self) -> int:
        """Side that training images are decoded to."""
        wide = self.augment.crop == "resized"
        return self.decode_size or (round(self.image_size * 8 / 7) if wide else self.image_size)

    @property
    def mixing_side(self) -> int:
        """Side that mixing pictures are decoded to: 36 for 32, as PixMix has them."""
        return self.mixing_size or round(self.image_size * 9 / 8)

    @model_validator(mode="after")
    def _sizes(self) -> DataConfig:
        if self.mixing_side < self.image_size:
            raise ValueError(
                f"data.mixing_size: got {self.mixing_size}, wanted at least image_size ({self.image_size})"
            )
        if self.decoded_side < self.image_size or (
            self.augment.crop == "pad" and self.decoded_side != self.image_size
        ):
            wanted = "at least image_size" if self.augment.crop == "resized" else "image_size, or null"
            raise ValueError(f"data.decode_size: got {self.decode_size}, wanted {wanted} ({self.image_size})")
        if self.stream and self.validation is None:
            raise ValueError("data.stream: needs data.validation, for rows are not held out of a stream")
        return self
