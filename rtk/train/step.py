"""One update of the weights, and what happens inside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from rtk.data.views.maker import View
from rtk.objectives import ActiveTerm, Observed
from rtk.objectives.objective import Observer, compute_losses, forward_passes
from rtk.runtime.ranks import gather_rows, rank
from rtk.runtime.seeding import seed_torch
from rtk.train.agreement import Agreement, NonFiniteLossError, agree
from rtk.train.engine import backward
from rtk.train.risen import ImageLosses, chosen_views, image_losses
from rtk.train.state import TrainState


def nothing() -> int:
    """Nobody asks for anything."""
    return 0


def train_step(
    state: TrainState,
    views: dict[str, View],
    step: int,
    seed: int = 0,
    accumulation: int = 1,
    redrawn: dict[str, View] | None = None,
    ask: Callable[[], int] = nothing,
    late: bool = False,
) -> Agreement:
    """One update of the weights: the whole method, top to bottom.

    Args:
        state: live objects.
        views: this rank's share of the batch.
        step: number of the update, from 0.
        seed: seed of dropout and drop path.
        accumulation: micro-batches that the share is cut into, to save memory.
        redrawn: views of the same images for the second pass of SAM; None: the same views.
        ask: what rank 0 is asked for, a small number >= 0, which all ranks are told with the losses.
        late: leave it to the caller to read what comes of it, so that the host need not wait for the device:
            by then a loss that is not finite has reached the weights.

    Raises:
        NonFiniteLossError: on every rank, where a loss of any rank is NaN or infinite; the weights are those
            before the step.
    """
    noise = (seed, 1, step, rank())
    seen = Seen()
    ascent, terms = state.ascent_at(step), state.terms_at(step)
    reduce = ascent is None or ascent.averaged
    before = ImageLosses() if ascent is not None and ascent.second_pass_share < 1 else None
    with state.first_pass():
        batches = micro_batches(views, accumulation)
        losses = back_propagate(state, terms, batches, noise, True, reduce, seen.observe, before)
    if ascent is not None:
        with ascent.ascended():
            share, again = ascent.second_pass_share, redrawn or views
            losses |= second_pass(state, terms, again, before, share, accumulation, noise)
    asked = ask() if rank() == 0 else 0
    agreement = agree(losses, [term.name for term in terms], state.buffers, asked, step)
    try:
        if not late:
            agreement.read()
    except NonFiniteLossError:
        state.shards.publish()  # on every rank: the model may still be at w + e
        raise
    update_weights(state)
    seen.update_states()
    return agreement


def second_pass(
    state: TrainState,
    terms: list[ActiveTerm],
    views: dict[str, View],
    before: ImageLosses | None,
    share: float,
    accumulation: int,
    noise: tuple[int, ...],
) -> dict[str, Tensor]:
    """Gradients at w + e, where the weights are, and the losses there, named so.

    Of the images only the share whose loss has risen most since `before`; None: of all.
    """
    if before is not None:
        views = risen_views(state, terms, views, before, share, accumulation, noise)
    losses = back_propagate(state, terms, micro_batches(views, accumulation), noise, first_pass=False)
    return {f"{name} at w + e": loss for name, loss in losses.items()}


def update_weights(state: TrainState) -> None:
    """The optimiser's step, and what the methods do before and after it."""
    for method in state.methods.values():
        method.before_step()
    state.engine.step()
    for method in state.methods.values():
        method.after_step()


def risen_views(
    state: TrainState,
    terms: list[ActiveTerm],
    views: dict[str, View],
    before: ImageLosses,
    share: float,
    accumulation: int,
    noise: tuple[int, ...],
) -> dict[str, View]:
    """Views of the share of the images whose loss rose most from w, `before`, to w + e, the weights now."""
    after = image_losses(state, terms, micro_batches(views, accumulation), noise)
    return chosen_views(views, before.rows(), after, share, accumulation)


class Seen:
    """What the terms that keep a state saw in the first pass of a step, on this rank."""

    def __init__(self) -> None:
        self.parts: dict[ActiveTerm, list[tuple[Tensor, ...]]] = defaultdict(list)

    def observe(self, term: ActiveTerm, logits: Tensor, view: View) -> None:
        """Note what a term sees in a micro-batch."""
        assert view.ids is not None, "a term that keeps a state needs the samples' ids"
        self.parts[term].append((view.ids, logits, view.targets))

    def update_states(self) -> None:
        """Let every term take in what it saw on all ranks, in the order of the global batch."""
        for term, parts in self.parts.items():
            columns = [torch.cat([gather_rows(part) for part in c]) for c in zip(*parts, strict=True)]
            assert term.state is not None
            term.state.update(Observed(*columns))


def micro_batches(views: dict[str, View], count: int) -> list[dict[str, View]]:
    """Views cut into `count` parts of the same number of images."""
    parts = {name: view.chunk(count) for name, view in views.items()}
    return [{name: part[number] for name, part in parts.items()} for number in range(count)]


def back_propagate(
    state: TrainState,
    terms: list[ActiveTerm],
    batches: list[dict[str, View]],
    noise: tuple[int, ...],
    first_pass: bool = True,
    reduce: bool = True,
    observe: Observer | None = None,
    images: ImageLosses | None = None,
) -> dict[str, Tensor]:
    """Gradients of the weighted sum of some terms; mean loss (a scalar tensor) of each.

    `noise` seeds dropout and drop path, so that both passes of SAM drop the same units. Without `reduce`
    the gradients stay this rank's own. `observe` is called with what the terms that keep a state see;
    `images` notes the loss of each image.
    """
    seed_torch(*noise)
    losses: dict[str, Tensor] = {}
    final = forward_passes(terms, state.concatenate)[-1][-1][-1]
    for number, views in enumerate(batches, 1):
        passes = compute_losses(state.engine, views, terms, first_pass, state.concatenate, observe)
        for together in passes:
            if images is not None:
                images.note(number, together)
            means = {term: per_sample.mean() / len(batches) for term, per_sample in together}
            last = number == len(batches) and final in means
            total = torch.stack([term.weight * loss for term, loss in means.items()]).sum()
            backward(state.engine, total, reduce=reduce and last)
            for term, loss in means.items():
                losses[term.name] = losses.get(term.name, 0) + loss.detach()
    return losses
