"""The losses of a batch, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from rtk.models.batchnorm import fixed_running_statistics, undone_recomputation
from rtk.objectives.term import ActiveTerm, CleanPass

if TYPE_CHECKING:
    from rtk.data.views.maker import View

Sharing: TypeAlias = list[ActiveTerm]  # terms that look at the same images
Observer: TypeAlias = Callable[[ActiveTerm, Tensor, "View"], None]


def compute_losses(
    model: nn.Module,
    views: Mapping[str, View],
    terms: list[ActiveTerm],
    first_pass: bool = True,
    concatenate: bool = False,
    observe: Observer | None = None,
) -> Iterator[list[tuple[ActiveTerm, Tensor]]]:
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
            batch, as BatchNorm does; a view that an attack starts from still goes first.
        observe: called with every term that keeps a state, its detached logits and its view.
    """
    attacked = {term.view.name for term in terms if term.attacks}
    clean: dict[str, CleanPass] = {}
    for groups in forward_passes(terms, concatenate):
        first, view = groups[0][0], views[groups[0][0].view.name]
        images = [_images(model, views, group[0], clean) for group in groups]
        starts_attack = first.view.name in attacked - clean.keys()
        moves_statistics = first_pass and first is terms[0]
        with nullcontext() if moves_statistics else fixed_running_statistics(model):
            if starts_attack:
                images = [images[0].detach().requires_grad_(True)]
            logits = model(torch.cat(images) if len(images) > 1 else images[0])
            parts = logits.split([len(part) for part in images])
            with undone_recomputation(model):
                yield [
                    (term, _losses(term, part, views[term.view.name], observe))
                    for group, part in zip(groups, parts, strict=True)
                    for term in group
                ]
        if starts_attack:
            clean[first.view.name] = CleanPass(images[0], view.targets, logits.detach())


def forward_passes(terms: list[ActiveTerm], concatenate: bool) -> list[list[Sharing]]:
    """Terms by forward pass, in order, and within a pass by the images that they look at.

    Raises:
        ValueError: where an attack has no pass of another term to start from.
    """
    # An attack starts from the gradient that one backward pass leaves on the images.
    sources = _attack_sources(terms)
    alone = [[[term]] for term in sources]
    shared: dict[str, Sharing] = {}
    for term in terms:
        if term not in sources:
            shared.setdefault(f"{term.name} attacks" if term.attacks else term.view.name, []).append(term)
    rest = [*shared.values()]
    if concatenate:
        return [*alone, rest] if rest else alone
    return [*alone, *([group] for group in rest)]


def images_of_pass(groups: list[Sharing]) -> int:
    """Images a sample in a forward pass."""
    return sum(group[0].view.versions for group in groups)


def _attack_sources(terms: list[ActiveTerm]) -> list[ActiveTerm]:
    """The first term without an attack on each view that is attacked."""
    sources = {}
    for attacking in terms:
        view = attacking.view.name
        if not attacking.attacks or view in sources:
            continue
        plain = [term for term in terms if term.view.name == view and not term.attacks]
        if not plain:
            raise ValueError(
                f"objective.{attacking.name}: starts from the view {view!r}, wanted another term of positive "
                "weight that looks at it"
            )
        sources[view] = plain[0]
    return [*sources.values()]


def _images(
    model: nn.Module, views: Mapping[str, View], term: ActiveTerm, clean: Mapping[str, CleanPass]
) -> Tensor:
    if term.attacks:
        return term.attacked_images(model, clean[term.view.name])
    images = views[term.view.name].images
    return images.flatten(0, 1) if term.view.versions > 1 else images


def _losses(term: ActiveTerm, logits: Tensor, view: View, observe: Observer | None) -> Tensor:
    """Per-sample losses (N,) of a term."""
    if term.view.versions > 1:
        logits = logits.unflatten(0, (-1, term.view.versions))
    if observe is not None and term.state is not None:
        observe(term, logits.detach(), view)
    return term.losses(logits, view)
