"""The losses of a batch, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rtk.models.batchnorm import fixed_running_statistics, undone_recomputation
from rtk.models.perturb import logits_and_gradient
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
    term looks at the clean view itself, the attacked one moves them, or else the first term's view.

    Args:
        model: images (N, 3, H, W) to logits (N, C).
        views: by name.
        terms: as `active_terms` orders them.
        first_pass: not SAM's second one.
        concatenate: put views through the model together, which is the same where no layer looks across a
            batch, as BatchNorm does; a view that an attack starts from still goes first.
        observe: called with every term that keeps a state, its detached logits and its view.
    """
    sources = attack_sources(terms)
    passed: dict[ActiveTerm, CleanPass] = {}
    for groups in forward_passes(terms, concatenate):
        first, view = groups[0][0], views[groups[0][0].view.name]
        images = [_images(model, views, group[0], sources, passed) for group in groups]
        starts_attack = first in sources.values()
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
            passed[first] = CleanPass(images[0], view.targets, logits.detach())


def forward_passes(terms: list[ActiveTerm], concatenate: bool) -> list[list[Sharing]]:
    """Terms by forward pass, in order, and within a pass by the images that they look at.

    Raises:
        ValueError: as `attack_sources`.
    """
    # An attack starts from the gradient that one backward pass leaves on the images.
    sources = list(dict.fromkeys(term for term in attack_sources(terms).values() if term is not None))
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


def attack_sources(terms: list[ActiveTerm]) -> dict[ActiveTerm, ActiveTerm | None]:
    """By attacking term the one whose backward pass it starts from; None: it makes a pass of its own.

    Raises:
        ValueError: where an attack that makes none has no pass of another term to start from.
    """
    return {term: _source(term, terms) for term in terms if term.attacks}


def _source(attacking: ActiveTerm, terms: list[ActiveTerm]) -> ActiveTerm | None:
    if attacking.term.start is not None:
        return None
    plain = [term for term in terms if not term.attacks and term.config.labelled]
    for view in attacking.gradient_of:
        found = next((term for term in plain if term.view == view), None)
        if found is not None:
            return found
    if attacking.term.gradient_of is None:
        raise ValueError(
            f"objective.{attacking.name}: starts from the view {attacking.view.name!r}, wanted another term "
            "of positive weight that looks at it"
        )
    return None


def _images(
    model: nn.Module,
    views: Mapping[str, View],
    term: ActiveTerm,
    sources: Mapping[ActiveTerm, ActiveTerm | None],
    passed: Mapping[ActiveTerm, CleanPass],
) -> Tensor:
    view = views[term.view.name]
    if term.attacks:
        # Not through DeepSpeed's engine, which takes any backward pass for the step's; ZeRO-0 refuses it.
        module = getattr(model, "module", model)
        return term.attacked_images(module, _start(module, view, term, sources[term], passed))
    return view.images.flatten(0, 1) if term.view.versions > 1 else view.images


def _start(
    model: nn.Module,
    view: View,
    term: ActiveTerm,
    source: ActiveTerm | None,
    passed: Mapping[ActiveTerm, CleanPass],
) -> CleanPass:
    """The pass that an attack starts from: of its source, or one of its own."""
    if term.term.start is not None:
        return term.term.start(model, view)
    if source is not None and source.view == term.view:
        return passed[source]
    return _pass_over(model, view, None if source is None else passed[source])


def _pass_over(model: nn.Module, view: View, source: CleanPass | None) -> CleanPass:
    """A pass over a view for an attack, with the gradient of its cross-entropy or of another view's pass.

    With respect to x the gradient of mixed images x' = l x + (1 - l) y has the signs of that by x'.
    """
    images = view.images.detach().requires_grad_(True)
    logits, gradient = logits_and_gradient(model, images, lambda z: cross_entropy(z, view.targets))
    images.grad = gradient if source is None else source.images.grad
    return CleanPass(images, view.targets, logits)


def _losses(term: ActiveTerm, logits: Tensor, view: View, observe: Observer | None) -> Tensor:
    """Per-sample losses (N,) of a term."""
    if term.view.versions > 1:
        logits = logits.unflatten(0, (-1, term.view.versions))
    if observe is not None and term.state is not None:
        observe(term, logits.detach(), view)
    return term.losses(logits, view)
