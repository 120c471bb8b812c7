"""What prediction actors do with the model: predict blocks of images, score them, fit scores on them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rtk.data.image import BadImageError
from rtk.data.views.augment import to_float
from rtk.evaluate.columns import as_lists
from rtk.evaluate.model import load_model
from rtk.evaluate.throughput import OUTPUTS
from rtk.models.precision import is_faster_in_bf16
from rtk.runs.atomic import unshared
from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import fetch
from rtk.runtime.freed_memory import keep_freed_memory
from rtk.scores import ImagePass, compute_image_score, get_score
from rtk.scores.hyperparameters import defaults_of
from rtk.scores.variants import fit_of, score_of, scoring_of

SECONDS = b"seconds"  # metadata of a predicted block: how long each of its columns took


class LoadedModel:
    """The model of a run, on the GPU where there is one.

    Args:
        run_place: of the run, which all nodes see.
        checkpoint: `best` or `last`.
        threads: CPU threads to use; None: as many as the process uses already.
        precision: of predictions. Scores of images always run in fp32: a finite difference of bf16 logits
            is noise.
    """

    def __init__(self, run_place: str, checkpoint: str, threads: int | None, precision: str) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        keep_freed_memory()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(RunFolder.at(run_place), checkpoint).to(self.device)
        # Weights laid out as the images: otherwise every backward pass reorders them anew.
        self.model = model.requires_grad_(False).to(memory_format=model.memory_format)
        if precision != "fp32" and is_faster_in_bf16(model, self.device.type):  # as a package of it does
            self.model.autocast_dtype = torch.bfloat16

    def images(self, block: pa.Table) -> Tensor:
        """Pixels (N, 3, H, W) in [0, 1] of a decoded block.

        Raises:
            BadImageError: naming data set and row where an image could not be decoded.
        """
        for name, row, reason in zip(*(block[c].to_pylist() for c in ("set", "row", "reason")), strict=True):
            if reason is not None:
                raise BadImageError(
                    f"data set {name!r}, row {row}: {reason} (data.on_error=skip leaves such images out)"
                )
        side = block["size"][0].as_py()
        pixels = np.frombuffer(b"".join(block["pixels"].to_pylist()), np.uint8).reshape(-1, 3, side, side)
        return to_float(torch.from_numpy(pixels.copy()).to(self.device))

    def in_full_precision(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function of the model gives without autocast."""
        kept, self.model.autocast_dtype = self.model.autocast_dtype, None
        try:
            return function(self.model, *args)
        finally:
            self.model.autocast_dtype = kept

    def read(self, file: str) -> dict[str, Tensor]:
        """Fitted tensors, on the model's device."""
        return load_file(fetch(file), device=str(self.device))


class Work(Protocol):
    """What a pass makes of decoded blocks; picklable."""

    def begin(self, loaded: LoadedModel) -> Callable[[pa.Table], pa.Table]:
        """Read what the pass needs once; returns what is called with each block."""


class ModelActor:
    """What a process of a pool does: loads the model at its first block, then does one pass after another.

    A start that fails is so an error of that block, which the driver sees as it was raised.

    Args:
        arguments: of `LoadedModel`.
    """

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.number = 0

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model."""
        return LoadedModel(*self.arguments)

    def process(self, number: int, work: Work, block: pa.Table) -> pa.Table:
        """What pass `number`, which is `work`, makes of a block."""
        if number != self.number:
            self.step, self.number = work.begin(self.loaded), number
        return self.step(block)


@dataclass(frozen=True)
class Predict:
    """Decoded block to `set`, `row` and the columns asked for.

    Attributes:
        outputs: `logits` and `features` among the columns.
        scores: columns of image scores, by `rtk.scores.variants`.
        fitted_files: by fit (`fit_of`), its tensors.
    """

    outputs: bool = True
    scores: tuple[str, ...] = ()
    fitted_files: Mapping[str, str] = field(default_factory=dict)

    def begin(self, loaded: LoadedModel) -> Callable[[pa.Table], pa.Table]:
        """Read the fitted tensors."""
        fits = {fit_of(column)[0] for column in self.scores} & set(self.fitted_files)
        fitted = {fit: loaded.read(self.fitted_files[fit]) for fit in fits}
        return partial(self._columns, loaded, fitted)

    def _columns(
        self, loaded: LoadedModel, fitted: Mapping[str, dict[str, Tensor]], block: pa.Table
    ) -> pa.Table:
        images, columns, seconds = loaded.images(block), {}, {}
        if self.outputs:
            started = time.perf_counter()
            with torch.no_grad():
                logits, features = loaded.model.forward_features(images)
            columns = {"logits": as_lists(logits), "features": as_lists(features)}
            seconds[OUTPUTS] = time.perf_counter() - started
        for column in self.scores:
            started, name = time.perf_counter(), score_of(column)[0]
            compute = partial(compute_image_score, name, **scoring_of(column))
            values = loaded.in_full_precision(compute, images, fitted.get(fit_of(column)[0]))
            columns[column] = pa.array(values.float().cpu().numpy())
            seconds.setdefault(name, time.perf_counter() - started)  # of many variants one will do
        about = {SECONDS: json.dumps(seconds)}
        return pa.table({"set": block["set"], "row": block["row"], **columns}).replace_schema_metadata(about)


@dataclass(frozen=True)
class Fit:
    """Decoded block to one row: its first `row`, its `count` of rows, and its `part` of a pass (safetensors).

    Attributes:
        score: name of a score that is fitted by passes over images.
        number: which of its passes.
        labels: (N,) of all rows of the data set.
        used: (N,) booleans, rows to fit on.
        fitted_file: tensors of the passes before; empty for the first.
        settings: hyper-parameters of the passes that are not their defaults.
    """

    score: str
    number: int
    labels: np.ndarray
    used: np.ndarray
    fitted_file: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def begin(self, loaded: LoadedModel) -> Callable[[pa.Table], pa.Table]:
        """Read what the passes before have found."""
        fitted = loaded.read(self.fitted_file) if self.fitted_file else {}
        return partial(self._part, loaded, get_score(self.score).passes[self.number], fitted)

    def _part(
        self, loaded: LoadedModel, step: ImagePass, fitted: dict[str, Tensor], block: pa.Table
    ) -> pa.Table:
        """The part of one block; no bytes where none of its rows is used."""
        rows = block["row"].to_numpy()
        used = self.used[rows]
        part = b""
        if used.any():
            chosen = torch.from_numpy(used).to(loaded.device)
            labels = torch.from_numpy(self.labels[rows[used]]).to(loaded.device)
            used_here = {key: self.settings[key] for key in defaults_of(step.part) if key in self.settings}
            compute = partial(step.part, **used_here)
            tensors = loaded.in_full_precision(compute, loaded.images(block)[chosen], labels, fitted)
            part = save(unshared({name: value.cpu() for name, value in tensors.items()}))
        encoded = pa.array([part], pa.large_binary())
        return pa.table({"row": block["row"][:1], "count": [len(block)], "part": encoded})
