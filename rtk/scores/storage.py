"""Fitted scores on disk: one safetensors file, whose header holds their hyper-parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

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
    """Read what `save_fitted` wrote."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[HEADER])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    return {
        score: FittedScore(
            {key.split("|", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{score}|")},
            entry["hyperparameters"],
            tuple(entry["width"]) if entry["width"] else None,
        )
        for score, entry in about.items()
    }
