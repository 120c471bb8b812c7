"""The terms of the loss, each on its own view of the batch.

A new term is one `Term` in `active_terms` and, where it needs one, a new view in `rtk.data.views`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from rtk.models.build import fixed_running_statistics
from rtk.objectives.cross_entropy import soft_cross_entropy

if TYPE_CHECKING:
    from rtk.config.schema import ObjectiveConfig
    from rtk.data.views import View


@dataclass(frozen=True)
class Term:
    """One weighed term: its name in the logs, its factor, and the view of the batch that it looks at."""

    name: str
    weight: float
    view: str
    label_smoothing: float = 0.0


def active_terms(config: ObjectiveConfig) -> list[Term]:
    """Terms of positive weight, in the order in which they are back-propagated."""
    terms = [
        Term("cross_entropy", config.cross_entropy.weight, "clean", config.cross_entropy.label_smoothing),
        Term("regmixup", config.regmixup.weight, "mixed"),
        Term("regpixmix", config.regpixmix.weight, "pixmix"),
    ]
    return [term for term in terms if term.weight > 0]


def compute_losses(
    model: nn.Module, views: Mapping[str, View], terms: list[Term], first_pass: bool = True
) -> Iterator[tuple[Term, Tensor]]:
    """Yield each term with its per-sample losses (N,).

    It is lazy on purpose: the caller back-propagates a term before the next one's graph is built,
    so that one graph is held at a time. Only the clean view of the first pass moves BatchNorm's
    running statistics: mixed and PixMix pictures, and weights moved by SAM, are not what the
    model is evaluated on.
    """
    for term in terms:
        updates_statistics = first_pass and term.view == "clean"
        with nullcontext() if updates_statistics else fixed_running_statistics(model):
            view = views[term.view]
            yield term, soft_cross_entropy(model(view.images), view.targets, term.label_smoothing)
