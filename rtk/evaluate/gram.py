"""Fitting Gram over the actor pool: bounds of training images, usual deviations of validation images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rtk.config.errors import ConfigError
from rtk.data.decode.pipeline import Source
from rtk.data.order import holdout_split
from rtk.evaluate.actors import GramBounds, GramDeviations
from rtk.evaluate.columns import as_matrix
from rtk.evaluate.pool import FIT_SET, Pool, collect
from rtk.runs.atomic import replacing
from rtk.scores.gram import close_bounds, mean_deviations, widen_bounds
from rtk.train.checkpoint import read_state

HELD_OUT = "validation"


def fit_gram_file(
    pool: Pool, sources: Mapping[str, Source], stamps: Mapping[str, Any], folder: Path
) -> tuple[str, dict[str, Any]]:
    """Fit Gram once, and keep it as `gram.safetensors` beside the predictions.

    Bounds are the least and largest statistics of batches, so that neither the order of these nor a batch
    that was done twice can change them; deviations are averaged in the order of the rows.

    Args:
        pool: where to run.
        sources: data sets by name, `train` among them, and `validation` if the run has one of its own.
        stamps: what the predictions of each data set depend on.
        folder: where the file goes.

    Returns:
        The file, and what it was fitted on.

    Raises:
        ConfigError: there is no `train`.
    """
    if FIT_SET not in sources:
        raise ConfigError(f"gram: got {', '.join(sources)}, wanted {FIT_SET!r}, which it is fitted on")
    fitted_on = {name: stamps[name] for name in (FIT_SET, HELD_OUT) if name in sources}
    path = folder / "gram.safetensors"
    if not path.exists() or _metadata(path) != fitted_on:
        kept, held_out, held = _split(pool, sources)
        tensors = _fit_bounds(pool, sources[FIT_SET], kept)
        # The actors of the second pass read the bounds from the file, which is not valid yet.
        _save(path, tensors, None)
        tensors["normalizer"] = _fit_normalizer(pool, {held_out: sources[held_out]}, held, path)
        _save(path, tensors, fitted_on)
    return str(path), fitted_on


def _split(pool: Pool, sources: Mapping[str, Source]) -> tuple[np.ndarray, str, np.ndarray]:
    """Rows of `train` to fit bounds on; the set to normalise by, and its rows."""
    config, count = pool.run.config(), len(sources[FIT_SET])
    if HELD_OUT in sources:
        return np.arange(count), HELD_OUT, np.arange(len(sources[HELD_OUT]))
    kept, held = holdout_split(config.seed, count, config.data.validation_fraction)
    return kept, FIT_SET, held


def _fit_bounds(pool: Pool, source: Source, kept: np.ndarray) -> dict[str, Tensor]:
    used = np.full(len(source), -1)
    used[kept] = source.labels()[kept]
    classes = read_state(pool.run.checkpoints / pool.checkpoint)["num_classes"]
    state: dict[str, Tensor] = {}
    sizes: list[int] = []
    for block in pool.run_blocks({FIT_SET: source}, GramBounds, used):
        if len(block) == 0:
            continue
        lower, upper = (torch.tensor(as_matrix(block[name], len(block))) for name in ("lower", "upper"))
        widen_bounds(state, classes, torch.from_numpy(block["class"].to_numpy().copy()), lower, upper)
        sizes = block["sizes"][0].as_py()
    close_bounds(state, sizes)
    return state


def _fit_normalizer(pool: Pool, source: Mapping[str, Source], rows: np.ndarray, path: Path) -> Tensor:
    used = np.zeros(sum(map(len, source.values())), bool)
    used[rows] = True
    _, columns = next(collect(pool.run_blocks(source, GramDeviations, used, str(path)), source))
    return mean_deviations(torch.from_numpy(columns["deviations"][rows]))


def _save(path: Path, tensors: dict[str, Tensor], fitted_on: Any) -> None:
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"fitted_on": json.dumps(fitted_on)})


def _metadata(path: Path) -> Any:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["fitted_on"])
