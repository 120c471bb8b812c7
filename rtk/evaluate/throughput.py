"""How many images a second each score takes: those of images on one actor, the others in the driver."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from rtk.runs.atomic import write_json
from rtk.scores import FittedScore, Predictions, apply_score
from rtk.scores.selection import image_scores

FILE = "throughput.json"
TIMED = 2048  # images that are scored once more to time a score
OUTPUTS = "prediction"  # the forward pass that logits and features come from


def note_throughput(folder: Path, found: Mapping[str, float]) -> None:
    """Keep images a second by score beside the results of a run; those measured before stay."""
    if found:
        write_json(folder / FILE, read_throughput(folder) | dict(found))


def read_throughput(folder: Path) -> dict[str, float]:
    """What `note_throughput` kept; empty for evaluations from before."""
    path = folder / FILE
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def measure_throughput(states: Mapping[str, FittedScore], predictions: Predictions) -> dict[str, float]:
    """Images a second of every score that takes logits or features, on the first of some images."""
    timed, running = next(predictions.split(TIMED)), image_scores(states)
    found = {}
    for name, state in states.items():
        if name not in running:
            started = time.perf_counter()
            apply_score(name, state, timed)
            found[name] = len(timed) / (time.perf_counter() - started)
    return found
