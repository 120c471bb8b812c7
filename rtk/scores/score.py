"""What a score is: a row of the table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from rtk.scores.hyperparameters import Limit, defaults_of, limits_of
from rtk.scores.image_fit import ImagePass


@dataclass(frozen=True)
class Score:
    """A score: larger = more trustworthy, more in-distribution.

    There are three kinds, told apart by `inputs`; each returns (N,), every image for itself:

    - "logits": `score(logits, **hyper-parameters)`, nothing to fit;
    - "features": `score(predictions, fitted tensors, **hyper-parameters)`, after
      `fit(fit_data, **hyper-parameters) -> tensors by name` where there is one;
    - "images": `score(model, images, **hyper-parameters)`, which runs the model. One that has `passes` is
      fitted by them and takes the fitted tensors third. An evaluation computes these while it predicts, with
      their defaults and, where RAT's protocol is to tune them, with every value that it tries.

    Attributes:
        name: key in `SCORES`.
        score: as above.
        fit: as above; None where there is nothing to fit.
        inputs: what is scored.
        passes: over images, in which a score of images is fitted.
        moves_pixels: a score of images does, by less than half precision tells apart.
        of_ensembles: it is about the members of an ensemble, which a single network has none of.
        search: values that OpenOOD's automatic search tries, by hyper-parameter.
        rat_search: values that RAT's protocol tries, where it tunes the score.
    """

    name: str
    score: Callable[..., Tensor]
    fit: Callable[..., dict[str, Tensor]] | None = None
    inputs: Literal["logits", "features", "images"] = "logits"
    passes: tuple[ImagePass, ...] = ()
    moves_pixels: bool = True
    of_ensembles: bool = False
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    rat_search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def fit_defaults(self) -> dict[str, Any]:
        """Hyper-parameters that fitting uses, with their defaults."""
        return {name: value for each in self._fits for name, value in defaults_of(each).items()}

    @property
    def score_defaults(self) -> dict[str, Any]:
        """Hyper-parameters that scoring uses, with their defaults."""
        return defaults_of(self.score)

    @property
    def defaults(self) -> dict[str, Any]:
        """All hyper-parameters with their defaults."""
        return self.fit_defaults | self.score_defaults

    @property
    def limits(self) -> dict[str, Limit]:
        """Which values each hyper-parameter may have."""
        functions = (*self._fits, self.score)
        return {name: limit for each in functions for name, limit in limits_of(each).items()}

    @property
    def _fits(self) -> tuple[Callable[..., Any], ...]:
        return tuple(step.part for step in self.passes) if self.fit is None else (self.fit,)

    @property
    def source(self) -> str:
        """Where the score comes from: the paragraph `Source:` of its function's docstring."""
        found = re.search(r"Source: (.*?)(\n\s*\n|$)", self.score.__doc__ or "", re.DOTALL)
        return " ".join(found.group(1).split()) if found else ""
