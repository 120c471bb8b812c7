"""Which images a second pass learns from, where a method takes those that notice most (ESAM).

The choice is among the images of all ranks together, so that it does not depend on their number; the chosen
ones are then spread evenly, for a rank with fewer would wait for the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtk.config.training import images_of_share
from rtk.data.views.maker import View
from rtk.objectives import ActiveTerm
from rtk.objectives.objective import compute_losses
from rtk.optim import most_risen
from rtk.runtime.ranks import gather_rows, take_rows, world_size
from rtk.runtime.seeding import seed_torch
from rtk.train.state import TrainState


class ImageLosses:
    """The loss of each image of this rank: the weighted sum of the terms that look at views as they are.

    Attacked images are others at other weights, so their loss does not say how an image takes the move.
    """

    def __init__(self) -> None:
        self.batches: dict[int, Tensor] = {}

    def note(self, number: int, together: list[tuple[ActiveTerm, Tensor]]) -> None:
        """Add the losses (n,) of some terms for a micro-batch, by its number."""
        for term, losses in together:
            if not term.attacks:
                self.batches[number] = self.batches.get(number, 0) + term.weight * losses.detach()

    def rows(self) -> Tensor:
        """Losses (N,) of all micro-batches in their order."""
        return torch.cat([self.batches[number] for number in sorted(self.batches)])


@torch.no_grad()
def image_losses(
    state: TrainState, terms: list[ActiveTerm], batches: list[dict[str, View]], noise: tuple[int, ...]
) -> Tensor:
    """Losses (N,) of this rank's images at the present weights, without a graph; `noise` as of the passes.

    Raises:
        ValueError: every term looks at attacked images.
    """
    plain, found = [term for term in terms if not term.attacks], ImageLosses()
    if not plain:
        raise ValueError(
            "sharpness.variant: got esam, which chooses images by their losses, with terms of attacked "
            "images alone; wanted another term beside them, such as objective.cross_entropy"
        )
    seed_torch(*noise)
    for number, views in enumerate(batches):
        # Not through DeepSpeed's engine, which expects a backward pass after its forward one.
        passes = compute_losses(state.engine.module, views, plain, False, state.concatenate)
        for together in passes:
            found.note(number, together)
    return found.rows()


def chosen_views(
    views: dict[str, View], before: Tensor, after: Tensor, share: float, parts: int = 1
) -> dict[str, View]:
    """This rank's part of the images of all ranks whose loss rose most, in the order of the global batch.

    Args:
        views: this rank's share of the batch.
        before: losses (N,) of its images at w.
        after: losses (N,) of its images at w + e.
        share: of the global batch; what it comes to is a multiple of the ranks times the micro-batches.
        parts: micro-batches of a share. The global batch is cut into them, and each of these into ranks.
    """
    ranks, images = world_size(), len(before) * world_size()
    # Where each image of the global batch is when shares are put together in rank order.
    order = torch.arange(images, device=before.device).view(ranks, parts, -1).transpose(0, 1).flatten()
    losses = gather_rows(torch.stack([before, after], dim=1))[order]
    count = images_of_share(share, images)
    chosen = order[most_risen(losses[:, 0], losses[:, 1], count)]
    takers = torch.arange(count, device=chosen.device) % (count // parts) // (count // (parts * ranks))
    return {name: _rows(view, chosen, takers) for name, view in views.items()}


def _rows(view: View, *choice: Tensor) -> View:
    ids = None if view.ids is None else take_rows(view.ids, *choice)
    return View(take_rows(view.images, *choice), take_rows(view.targets, *choice), ids)
