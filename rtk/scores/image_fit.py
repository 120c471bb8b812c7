"""Fitting a score that runs the model: passes over images, too many to keep what the model says of each.

An evaluation runs the passes on its pool of actors, `fit_image_score` in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Tensors = dict[str, Tensor]
Rows = Literal["train", "held_out"]


@dataclass(frozen=True)
class ImagePass:
    """One pass over images: every batch becomes a small part, and parts are merged in the order of the rows.

    Attributes:
        part: `(model, images (N, 3, H, W), labels (N,), fitted, **hyper-parameters) -> tensors by name` of a
            batch, `fitted` being those of the passes before; a function of these alone, for a lost batch is
            done again.
        add: `(state, part)`: take a part into the state, which is empty at first.
        finish: `state -> tensors by name`, which join those of the passes before.
        rows: which images: those trained on, or in-distribution images held out of training.
    """

    part: Callable[..., Tensors]
    add: Callable[[Tensors, Tensors], None]
    finish: Callable[[Tensors], Tensors]
    rows: Rows = "train"

    def merge(self, parts: Iterable[Tensors]) -> Tensors:
        """What the parts of a pass amount to.

        Raises:
            ValueError: there is none.
        """
        state: Tensors = {}
        for part in parts:
            self.add(state, part)
        if not state:
            raise ValueError(f"{self.rows}: got no batch, wanted at least one")
        return self.finish(state)
