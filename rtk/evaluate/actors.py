"""What prediction actors do with the model: predict blocks of images, score them, fit Gram."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from torch import Tensor

from rtk.data.image import BadImageError
from rtk.data.views.augment import to_float
from rtk.evaluate.columns import as_lists
from rtk.evaluate.model import load_model
from rtk.runs.folder import RunFolder
from rtk.runtime.environment import supports_bf16
from rtk.scores import compute_image_score
from rtk.scores.gram import class_bounds, layer_deviations, model_statistics


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
        gram_file: Gram's fitted tensors, where it is among the scores.
    """

    def __init__(
        self,
        run_path: str,
        checkpoint: str,
        threads: int,
        precision: str,
        outputs: bool = True,
        scores: tuple[str, ...] = (),
        gram_file: str = "",
    ) -> None:
        super().__init__(run_path, checkpoint, threads, precision)
        self.outputs, self.scores = outputs, scores
        self.gram = load_file(gram_file, device=str(self.device)) if "gram" in scores else None

    def __call__(self, block: pa.Table) -> pa.Table:
        """Predict and score one block."""
        images, columns = self.images(block), {}
        if self.outputs:
            with torch.no_grad():
                logits, features = self.model.forward_features(images)
            columns = {"logits": as_lists(logits), "features": as_lists(features)}
        for name in self.scores:
            tensors = self.gram if name == "gram" else None
            values = self.in_full_precision(
                lambda model, name=name, tensors=tensors: compute_image_score(name, model, images, tensors)
            )
            columns[name] = pa.array(values.float().cpu().numpy())
        return pa.table({"set": block["set"], "row": block["row"], **columns})


class GramBounds(ModelActor):
    """Decoded block to Gram's bounds of the classes in it: `class`, `lower`, `upper`, `sizes`.

    Args:
        args: of `ModelActor`, then labels (N,) of all rows of the data set, -1 for rows to leave out.
    """

    def __init__(self, *args: Any) -> None:
        *base, labels = args
        super().__init__(*base)
        self.labels = torch.from_numpy(labels)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Bounds of one block."""
        labels = self.labels[torch.from_numpy(block["row"].to_numpy())]
        used = (labels >= 0).to(self.device)
        if not used.any():
            return pa.table({})
        _, statistics, sizes = self.in_full_precision(model_statistics, self.images(block)[used])
        classes, lower, upper = class_bounds(statistics, labels.to(self.device)[used])
        bounds = {"lower": as_lists(lower), "upper": as_lists(upper), "sizes": [sizes] * len(classes)}
        return pa.table({"class": classes.cpu().numpy(), **bounds})


class GramDeviations(ModelActor):
    """Decoded block to `set`, `row` and `deviations` (N, L) from Gram's bounds of the predicted classes.

    Args:
        args: of `ModelActor`, then which rows (N,) of the data set to do, the others being zero, and the file
            of Gram's bounds.
    """

    def __init__(self, *args: Any) -> None:
        *base, used, gram_file = args
        super().__init__(*base)
        self.used = torch.from_numpy(used)
        self.tensors = load_file(gram_file, device=str(self.device))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Deviations of one block."""
        used = self.used[torch.from_numpy(block["row"].to_numpy())].to(self.device)
        deviations = torch.zeros(len(used), len(self.tensors["sizes"]), device=self.device)
        if used.any():
            logits, statistics, _ = self.in_full_precision(model_statistics, self.images(block)[used])
            deviations[used] = layer_deviations(self.tensors, statistics, logits.argmax(dim=1))
        return pa.table({"set": block["set"], "row": block["row"], "deviations": as_lists(deviations)})
