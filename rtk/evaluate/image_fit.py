"""Fitting scores of images over the actor pool; what was fitted is kept beside the predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from rtk.config.errors import ConfigError
from rtk.data.decode.pipeline import Selection
from rtk.evaluate.actors import Fit
from rtk.evaluate.pool import FIT_SET, Pool
from rtk.evaluate.score_table import rows_to_fit_on
from rtk.runs.atomic import write_tensors
from rtk.runs.working_copy import place_of, push_file
from rtk.scores import get_score
from rtk.scores.variants import score_of

HELD_OUT = "validation"


def fit_image_file(
    pool: Pool,
    fit: str,
    selections: Mapping[str, Selection],
    stamps: Mapping[str, Any],
    folder: Path,
    made_by: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[str, dict[str, Any]]:
    """Fit a score by its passes over images once, and keep its tensors as `SCORE.safetensors`.

    One with hyper-parameters of its own has their hash in the name.

    Parts of batches are merged in the order of the rows, so that nothing depends on the number of actors.

    Args:
        pool: where to run.
        fit: of `fit_of`: a score that has passes, and hyper-parameters of these.
        selections: data sets by name, `train` among them, and `validation` if the run has one of its own.
        stamps: what the predictions of each data set depend on.
        folder: where the file goes.
        made_by: what else the fit depends on, such as the user's file that the score comes from.

    Returns:
        The file, and what it was fitted on.

    Raises:
        ConfigError: there is no `train`.
    """
    score, settings = score_of(fit)
    if FIT_SET not in selections:
        raise ConfigError(f"{score}: got {', '.join(selections)}, wanted {FIT_SET!r}, which it is fitted on")
    fitted_on = {name: stamps[name] for name in (FIT_SET, HELD_OUT) if name in selections} | dict(made_by)
    fitted_on |= {"hyperparameters": settings} if settings else {}
    path = folder / f"{score}{_suffix(fit) if settings else ''}.safetensors"
    if not path.exists() or _metadata(path) != fitted_on:
        _save(path, _fit(pool, fit, selections, path), fitted_on)
    return place_of(path), fitted_on


def _suffix(fit: str) -> str:
    return f"-{hashlib.sha256(fit.encode()).hexdigest()[:12]}"


def _fit(pool: Pool, fit: str, selections: Mapping[str, Selection], path: Path) -> dict[str, Tensor]:
    """Run the passes; actors read what those before have found from the file, which is not valid yet."""
    score, settings = score_of(fit)
    kept, name, held = rows_to_fit_on(pool.run.config(), len(selections[FIT_SET]), HELD_OUT in selections)
    chosen = {"train": (FIT_SET, kept), "held_out": (name, held)}
    fitted: dict[str, Tensor] = {}
    for number, step in enumerate(get_score(score).passes):
        if fitted:
            _save(path, fitted, None)
        name, rows = chosen[step.rows]
        used = np.zeros(len(selections[name]), bool)
        used[rows] = True
        work = Fit(score, number, selections[name].labels(), used, place_of(path) if fitted else "", settings)
        fitted |= step.merge(_parts(pool.run_blocks({name: selections[name]}, work)))
    return fitted


def _parts(blocks: Iterable[pa.Table]) -> Iterator[dict[str, Tensor]]:
    """Parts in the order of the rows; those that come before their turn are kept until then."""
    waiting: dict[int, pa.Table] = {}
    following = 0
    for block in blocks:
        waiting[block["row"][0].as_py()] = block
        while following in waiting:
            ready = waiting.pop(following)
            following += ready["count"][0].as_py()
            if encoded := ready["part"][0].as_py():
                yield load(encoded)


def _save(path: Path, tensors: dict[str, Tensor], fitted_on: Any) -> None:
    write_tensors(path, tensors, {"fitted_on": json.dumps(fitted_on)})
    push_file(path)  # which actors on other nodes read


def _metadata(path: Path) -> Any:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["fitted_on"])
