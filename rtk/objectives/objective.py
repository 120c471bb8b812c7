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
from rtk.objectives.jensen_shannon import jensen_shannon
from rtk.objectives.rat import CleanPass, attacked_images

if TYPE_CHECKING:
    from rtk.config.schema import ObjectiveConfig, RatConfig
    from rtk.data.views import View


@dataclass(frozen=True)
class Term:
    """One weighed term: its name in the logs, its factor, and the view of the batch that it looks at.

    A term with an `attack` looks at its view's images after the attack. One of `consistency` looks at several
    versions of each image (n, versions, 3, H, W) and compares their predictions with each other.
    """

    name: str
    weight: float
    view: str
    label_smoothing: float = 0.0
    consistency: bool = False
    attack: RatConfig | None = None


def active_terms(config: ObjectiveConfig) -> list[Term]:
    """Terms of positive weight, in the order in which they are back-propagated."""
    terms = [
        Term("cross_entropy", config.cross_entropy.weight, "clean", config.cross_entropy.label_smoothing),
        Term("rat", config.rat.weight, "clean", attack=config.rat),
        Term("regmixup", config.regmixup.weight, "mixed"),
        Term("regpixmix", config.regpixmix.weight, "pixmix"),
        Term("cutmix", config.cutmix.weight, "cutmix"),
        Term("openmix", config.openmix.weight, "openmix"),
        Term("augmix", config.augmix.weight, "augmix", consistency=True),
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
    attacked = any(term.attack is not None for term in terms)
    clean: CleanPass | None = None
    for term in terms:
        view, images = views[term.view], views[term.view].images
        if term.attack is not None:
            assert clean is not None, "the clean term comes first"
            images = attacked_images(model, clean, term.attack)
        is_clean = term.view == "clean" and term.attack is None
        with nullcontext() if first_pass and is_clean else fixed_running_statistics(model):
            if is_clean and attacked:
                images = images.detach().requires_grad_(True)
            if term.consistency:
                logits = model(images.flatten(0, 1)).unflatten(0, images.shape[:2])
                yield term, jensen_shannon(logits)
            else:
                logits = model(images)
                yield term, soft_cross_entropy(logits, view.targets, term.label_smoothing)
        if is_clean and attacked:
            clean = CleanPass(images, view.targets, logits.detach())
