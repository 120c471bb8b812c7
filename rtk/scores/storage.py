"""Fitted scores on disk: one safetensors file, whose header holds their hyper-parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from rtk.config.errors import ConfigError
from rtk.runs.atomic import write_tensors
from rtk.scores.compute import FittedScore

HEADER = "scores"


def save_fitted(path: Path, scores: Mapping[str, FittedScore]) -> None:
    """Write fitted scores, by name; they may share memory, as those that keep the head do."""
    tensors = {
        f"{score}|{name}": tensor for score, state in scores.items() for name, tensor in state.tensors.items()
    }
    about = {
        name: {"hyperparameters": dict(state.hyperparameters), "width": state.width}
        for name, state in scores.items()
    }
    write_tensors(path, tensors, {HEADER: json.dumps(about)})


def load_fitted(path: Path) -> dict[str, FittedScore]:
    """Read what `save_fitted` wrote.

    Raises:
        ConfigError: the file is missing, damaged or of something else.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return {score: _fitted(score, entry, tensors) for score, entry in about.items()}
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: damaged, wanted fitted scores ({error})") from None


def _fitted(score: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> FittedScore:
    own = {key.split("|", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{score}|")}
    return FittedScore(own, about["hyperparameters"], tuple(about["width"]) if about["width"] else None)
