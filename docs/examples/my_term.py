"""A loss term of one's own: early-learning regularisation (Liu et al., NeurIPS 2020, equation 6).

Networks learn right labels first and memorise wrong ones later. So the term remembers what was predicted for
every training image, as a moving average t, and holds later predictions p to it: log(1 - <p, t>).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rtk.config.sections import Fraction
from rtk.data.views.maker import View
from rtk.objectives import CLEAN, Observed, Term, TermConfig, TermSetup, register


class EarlyLearningConfig(TermConfig):
    """The block `objective.early_learning`; `weight`, by default 0, it has from `TermConfig`."""

    labelled = False  # it learns no label: rtk asks for a term that does, such as cross-entropy

    decay: Fraction = Field(0.7, description="share of an image's average that stays when it is seen again")


class EarlyLearningState:
    """The average prediction for every training image: the same on all ranks, and saved in checkpoints."""

    def __init__(self, config: EarlyLearningConfig, setup: TermSetup) -> None:
        self.decay = config.decay
        self.ids = torch.as_tensor(setup.sample_ids, device=setup.device).sort().values
        self.average = torch.zeros(len(self.ids), setup.num_classes, device=setup.device)

    def moved(self, ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of some images, and their averages once they have taken in what is predicted now."""
        rows = torch.searchsorted(self.ids, ids)
        return rows, logits.softmax(1).lerp(self.average[rows], self.decay)

    def update(self, observed: Observed) -> None:
        """Called on every rank after a step, with the images and logits of the whole batch."""
        rows, average = self.moved(observed.ids, observed.logits)
        self.average[rows] = average

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {"average": self.average}


def early_learning(
    logits: Tensor, view: View, config: EarlyLearningConfig, state: EarlyLearningState
) -> Tensor:
    """Losses (n,) of logits (n, C)."""
    _, target = state.moved(view.ids, logits.detach())
    return (1 - (logits.softmax(1) * target).sum(1)).clamp_min(1e-4).log()


# It looks at the clean images, and so shares the forward pass of cross-entropy.
register(Term("early_learning", EarlyLearningConfig, CLEAN, early_learning, state=EarlyLearningState))
