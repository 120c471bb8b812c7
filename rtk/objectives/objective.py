"""The terms of the loss, each on its own view of the batch.

A new term is one `Term` in `active_terms` and, where it needs one, a new view in `rtk.data.views.maker`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtk.models.batchnorm import fixed_running_statistics, undone_recomputation
from rtk.objectives.cross_entropy import soft_cross_entropy
from rtk.objectives.jensen_shannon import jensen_shannon
from rtk.objectives.rat import CleanPass, attacked_images

if TYPE_CHECKING:
    from rtk.config.objective import ObjectiveConfig, RatConfig
    from rtk.data.views.maker import View


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
    model: nn.Module,
    views: Mapping[str, View],
    terms: list[Term],
    first_pass: bool = True,
    concatenate: bool = False,
) -> Iterator[list[tuple[Term, Tensor]]]:
    """Yield terms with their per-sample losses (N,): those that share a forward pass come together.

    It is lazy on purpose: the caller back-propagates what has come before the next graph is built, so that
    one graph is held at a time. Only the clean view of the first pass moves BatchNorm's running statistics:
    mixed and PixMix pictures, and weights moved by SAM, are not what the model is evaluated on. Where no
    term looks at the clean view, the first term's view moves them.

    Args:
        model: images (N, 3, H, W) to logits (N, C).
        views: by name.
        terms: as `active_terms` orders them.
        first_pass: not SAM's second one.
        concatenate: put views through the model together, which is the same where no layer looks across a
            batch, as BatchNorm does; an attacked clean view still goes first.
    """
    clean: CleanPass | None = None
    for together in forward_passes(terms, concatenate):
        images = [_images(model, views, term, clean) for term in together]
        first, view = together[0], views[together[0].view]
        attacked = any(term.attack is not None for term in terms)
        needs_gradient = attacked and _is_clean(first) and len(together) == 1
        moves_statistics = first_pass and first is terms[0]
        with nullcontext() if moves_statistics else fixed_running_statistics(model):
            if needs_gradient:
                images = [images[0].detach().requires_grad_(True)]
            logits = model(torch.cat(images) if len(images) > 1 else images[0])
            parts = logits.split([len(part) for part in images])
            with undone_recomputation(model):
                yield [
                    (term, _losses(term, part, views[term.view]))
                    for term, part in zip(together, parts, strict=True)
                ]
        if needs_gradient:
            clean = CleanPass(images[0], view.targets, logits.detach())


def forward_passes(terms: list[Term], concatenate: bool) -> list[list[Term]]:
    """Terms by forward pass, in order."""
    if not concatenate:
        return [[term] for term in terms]
    # An attack starts from the gradient that the clean view's backward pass leaves on its images.
    attacked = any(term.attack is not None for term in terms)
    alone = [term for term in terms if attacked and _is_clean(term)]
    rest = [term for term in terms if term not in alone]
    return [passed for passed in (alone, rest) if passed]


def _is_clean(term: Term) -> bool:
    return term.view == "clean" and term.attack is None


def _images(model: nn.Module, views: Mapping[str, View], term: Term, clean: CleanPass | None) -> Tensor:
    if term.consistency:
        return views[term.view].images.flatten(0, 1)
    if term.attack is None:
        return views[term.view].images
    assert clean is not None, "the clean term comes first"
    return attacked_images(model, clean, term.attack)


def _losses(term: Term, logits: Tensor, view: View) -> Tensor:
    """Per-sample losses (N,) of a term."""
    if term.consistency:
        return jensen_shannon(logits.unflatten(0, view.images.shape[:2]))
    return soft_cross_entropy(logits, view.targets, term.label_smoothing)
