"""What prediction actors do with the model: predict blocks of images, score them, fit scores on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rtk.data.image import BadImageError
from rtk.data.views.augment import to_float
from rtk.evaluate.columns import as_lists
from rtk.evaluate.model import load_model
from rtk.runs.atomic import unshared
from rtk.runs.folder import RunFolder
from rtk.runtime.environment import supports_bf16
from rtk.scores import compute_image_score, get_score


class ModelActor:
    """Holds the model of a run, on the GPU where there is one.

    Args:
        run_path: folder of the run, which all nodes see.
        checkpoint: `best` or `last`.
        threads: CPU threads to use.
        precision: of predictions. Scores of images always run in fp32: a finite difference of bf16 logits
            is noise.
    """

    def __init__(self, run_path: str, checkpoint: str, threads: int, precision: str) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(RunFolder(Path(run_path)), checkpoint).to(self.device)
        # Weights laid out as the images: otherwise every backward pass reorders them anew.
        self.model = model.requires_grad_(False).to(memory_format=model.memory_format)
        if precision != "fp32" and supports_bf16(self.device.type):
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


class Predictor(ModelActor):
    """Decoded block to `set`, `row` and the columns asked for.

    Args:
        run_path, checkpoint, threads, precision: of `ModelActor`.
        outputs: `logits` and `features` among the columns.
        scores: names of image scores, a column each.
        fitted_files: tensors of the scores among these that are fitted, a file each.
    """

    def __init__(
        self,
        run_path: str,
        checkpoint: str,
        threads: int,
        precision: str,
        outputs: bool = True,
        scores: tuple[str, ...] = (),
        fitted_files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(run_path, checkpoint, threads, precision)
        self.outputs, self.scores = outputs, scores
        self.fitted = {
            name: load_file(fitted_files[name], device=str(self.device))
            for name in scores
            if name in fitted_files
        }

    def __call__(self, block: pa.Table) -> pa.Table:
        """Predict and score one block."""
        images, columns = self.images(block), {}
        if self.outputs:
            with torch.no_grad():
                logits, features = self.model.forward_features(images)
            columns = {"logits": as_lists(logits), "features": as_lists(features)}
        for name in self.scores:
            tensors = self.fitted.get(name)
            values = self.in_full_precision(
                lambda model, name=name, tensors=tensors: compute_image_score(name, model, images, tensors)
            )
            columns[name] = pa.array(values.float().cpu().numpy())
        return pa.table({"set": block["set"], "row": block["row"], **columns})


class Fitter(ModelActor):
    """Decoded block to one row: its first `row`, its `count` of rows, and its `part` of a pass (safetensors).

    Args:
        run_path, checkpoint, threads, precision: of `ModelActor`.
        score: name of a score that is fitted by passes over images.
        number: which of its passes.
        labels: (N,) of all rows of the data set.
        used: (N,) booleans, rows to fit on.
        fitted_file: tensors of the passes before; empty for the first.
    """

    def __init__(
        self,
        run_path: str,
        checkpoint: str,
        threads: int,
        precision: str,
        score: str,
        number: int,
        labels: np.ndarray,
        used: np.ndarray,
        fitted_file: str = "",
    ) -> None:
        super().__init__(run_path, checkpoint, threads, precision)
        self.step = get_score(score).passes[number]
        self.labels, self.used = torch.from_numpy(labels), torch.from_numpy(used)
        self.fitted = load_file(fitted_file, device=str(self.device)) if fitted_file else {}

    def __call__(self, block: pa.Table) -> pa.Table:
        """The part of one block; no bytes where none of its rows is used."""
        rows = torch.from_numpy(block["row"].to_numpy())
        used = self.used[rows]
        part = b""
        if used.any():
            images, labels = self.images(block)[used.to(self.device)], self.labels[rows[used]].to(self.device)
            tensors = self.in_full_precision(self.step.part, images, labels, self.fitted)
            part = save(unshared({name: value.cpu() for name, value in tensors.items()}))
        encoded = pa.array([part], pa.large_binary())
        return pa.table({"row": block["row"][:1], "count": [len(block)], "part": encoded})
