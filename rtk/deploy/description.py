"""What a packaged model says of itself, checked before anything of it is built: it may be anybody's."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError, safe_open
from torch import nn

from rtk.config.ensemble import EnsembleConfig
from rtk.config.errors import ConfigError
from rtk.config.model import ModelConfig
from rtk.models import Classifier, build_model
from rtk.models.ensemble import build_ensemble
from rtk.models.shapes_only import shapes_only
from rtk.scores.decision import DECISIONS, DecisionRule

FORMAT = 1
DESCRIPTION, WEIGHTS = "model.json", "weights.safetensors"
MOST_CLASSES, LARGEST_SIDE = 1_000_000, 8192
LONGEST = 60  # characters of a value that is shown
ImageCount = Annotated[int, Field(ge=0, le=2**53)]
ClassName = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class PreprocessingSection(BaseModel):
    """Of `Preprocessing`; a package of before `exif` is of a model that saw images as they were stored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    image_size: int = Field(gt=0, le=LARGEST_SIDE)
    crop_share: float = Field(1.0, gt=0, le=1)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    exif: Literal["apply", "ignore"] = "ignore"
    jpeg: Literal["full", "reduced"] = "full"


class Description(BaseModel):
    """`model.json`; of an ensemble `model` is the first member, and `ensemble` has all."""

    format: int
    origin: dict[str, Any]
    model: ModelConfig
    classes: list[ClassName] = Field(min_length=1, max_length=MOST_CLASSES)
    preprocessing: PreprocessingSection
    bf16: bool
    rule: DecisionRule
    ensemble: EnsembleConfig | None = None
    plugins: dict[str, str] = Field(default_factory=dict)
    expected: dict[Literal["accept", "likely-wrong", "unfamiliar"], ImageCount] | None = None

    @model_validator(mode="after")
    def _thresholds_decide(self) -> Description:
        for name in ("tau_id", "tau_ood", "risk"):
            if math.isnan(getattr(self.rule, name)):
                raise ValueError(f"rule.{name}: got NaN, which would accept every image")
        by_class = self.rule.tau_by_class
        if by_class is not None and len(by_class) != len(self.classes):
            raise ValueError(f"rule.tau_by_class: got {len(by_class)} thresholds, wanted {len(self.classes)}")
        if any(tau is not None and math.isnan(tau) for tau in by_class or ()):
            raise ValueError("rule.tau_by_class: got NaN, which would accept every image of a class")
        return self

    @model_validator(mode="after")
    def _expects_something(self) -> Description:
        found = self.expected
        if found is not None and (len(found) < len(DECISIONS) or not any(found.values())):
            raise ValueError(f"expected: got {found}, wanted how many images got {', '.join(DECISIONS)}")
        return self


def read_description(folder: Path) -> Description:
    """Read and check `model.json`.

    Raises:
        ConfigError: naming the file and the key, what was got and what was wanted.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ConfigError(f"model: got {str(folder)!r}, wanted what `rtk export` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged, wanted JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else None
        raise ConfigError(f"{path}: format {got}, wanted {FORMAT}")
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    """One line on the first key that is not as `rtk export` writes it."""
    fault = error.errors()[0]
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    key, got = ".".join(map(str, fault["loc"])), repr(fault["input"])
    if fault["type"] == "missing":
        return f"{key}: missing"
    return f"{key}: got {got[:LONGEST]}, which `rtk export` does not write"


def build_described(folder: Path, description: Description) -> Classifier:
    """The model with its weights, built once the file is known to hold just these: sizes are but words.

    Raises:
        ConfigError: the file is missing or damaged, or its weights are not the model's.
    """
    path = folder / WEIGHTS
    size, count = description.preprocessing.image_size, len(description.classes)
    try:
        with shapes_only():
            wanted = _build(description, count, size)
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, wanted, shapes)
            model = _build(description, count, size)
            model.load_state_dict({name: file.get_tensor(name) for name in shapes})
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot read the weights: {error}") from None
    except ConfigError:
        raise
    except (ValueError, RuntimeError) as error:  # the latter of sizes that no tensor can have
        raise ConfigError(f"{folder / DESCRIPTION}: {error}") from None
    return model


def _build(description: Description, num_classes: int, image_size: int) -> Classifier:
    if description.ensemble is not None:
        return build_ensemble(description.ensemble, num_classes, image_size)
    return build_model(description.model, num_classes, image_size)


def _check_shapes(path: Path, model: nn.Module, found: Mapping[str, tuple[int, ...]]) -> None:
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            got, want = found.get(name, "none"), wanted.get(name, "none")
            raise ConfigError(f"{path}: {name}: got {got}, wanted {want} by {DESCRIPTION}")
