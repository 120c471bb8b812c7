"""Correctness ranking loss: what was predicted right more often should be predicted with more confidence.

CRL (Moon et al., ICML 2020; a part of SURE, Li et al., CVPR 2024) compares every image i with the next one
j of the batch: max(0, |k_i - k_j| - sign(k_i - k_j) (c_i - c_j)), with the confidence c and the share k of
times that an image was predicted right so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rtk.config.objective import TermConfig
from rtk.objectives.term import CLEAN, Observed, Term, TermSetup

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.data.views.maker import View


class CrlConfig(TermConfig):
    """Confidences ranked by how often each image was predicted right so far (CRL, Moon et al. 2020)."""

    labelled: ClassVar[bool] = False

    confidence: Literal["msp", "entropy", "margin"] = Field(
        "msp",
        description="what is ranked: largest probability, minus the entropy as a share of its most, or the "
        "gap between the two largest probabilities",
    )
    history: Literal["log", "proportion"] = Field(
        "log",
        description="k: times right, scaled from the least of all images to the epochs so far (published "
        "code), or times right over times seen (paper)",
    )


class CorrectnessHistory:
    """How often every training image was seen, and predicted right, at the weights before each step.

    Attributes:
        right: int64 (N,), in the order of `ids`.
        seen: int64 (N,).
        steps: int64, a scalar.
    """

    def __init__(self, config: CrlConfig, setup: TermSetup) -> None:
        import torch

        self.history, self.steps_per_epoch = config.history, setup.steps_per_epoch
        self.ids = torch.as_tensor(setup.sample_ids, device=setup.device).sort().values
        self.right, self.seen = torch.zeros_like(self.ids), torch.zeros_like(self.ids)
        self.steps = self.ids.new_zeros(())

    def share(self, ids: Tensor) -> Tensor:
        """k (n,) of some images, float64.

        The published log divides by max_correctness - min, where max_correctness is 1 until the end of the
        second epoch: so k passes 1 within that epoch. Where both are the same (0 / 0, as published) k stands
        for the times right beyond the least.
        """
        rows = self._rows(ids)
        if self.history == "proportion":
            return self.right[rows].double() / self.seen[rows].clamp_min(1)
        least = self.right.min()
        most = (self.steps // self.steps_per_epoch).clamp_min(1)
        return (self.right[rows] - least).double() / (most - least).clamp_min(1)

    def update(self, observed: Observed) -> None:
        """Count the images of a step."""
        rows = self._rows(observed.ids)
        right = observed.logits.argmax(1) == observed.targets
        self.right.index_add_(0, rows, right.long())
        self.seen.index_add_(0, rows, right.new_ones(len(rows)).long())
        self.steps += 1

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {"right": self.right, "seen": self.seen, "steps": self.steps}

    def _rows(self, ids: Tensor) -> Tensor:
        import torch

        return torch.searchsorted(self.ids, ids)


def crl_confidence(logits: Tensor, kind: str = "msp") -> Tensor:
    """Confidences (n,) of logits (n, C): `msp` in (0, 1], `entropy` in [-1, 0], `margin` in [0, 1]."""
    import math

    probabilities = logits.softmax(1)
    if kind == "msp":
        return probabilities.amax(1)
    if kind == "entropy":
        return (probabilities * logits.log_softmax(1)).sum(1) / math.log(logits.shape[1])
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return first - second


def pair_losses(confidence: Tensor, share: Tensor) -> Tensor:
    """Losses (n - 1,) of every image and the next one, from confidences and shares (n,)."""
    difference = share[:-1] - share[1:]
    gained = difference.sign() * (confidence[:-1] - confidence[1:])
    return (difference.abs() - gained).clamp_min(0)


def ring_losses(confidence: Tensor, share: Tensor) -> Tensor:
    """Losses (n,) of this rank's images and their next ones in all ranks' batch; the first follows the last.

    So the pairs, and the gradients once these are averaged over ranks, are the same on any number of them.
    """
    import torch

    from rtk.runtime.ranks import gather_rows, rank

    everyone = gather_rows(torch.stack([confidence.detach(), share], 1))
    first = rank() * len(confidence)
    last = (first + len(confidence)) % len(everyone)
    before, after = everyone[first - 1, None], everyone[last, None]
    losses = pair_losses(
        torch.cat([before[:, 0], confidence, after[:, 0]]), torch.cat([before[:, 1], share, after[:, 1]])
    )
    # The first pair is counted where it begins; only its gradient in this rank's first image is due here.
    return torch.cat([losses[1:2] + losses[:1] - losses[:1].detach(), losses[2:]])


def ranking_losses(logits: Tensor, view: View, config: CrlConfig, state: CorrectnessHistory) -> Tensor:
    """Losses (n,) of logits (n, C) of the clean view."""
    assert view.ids is not None
    confidence = crl_confidence(logits, config.confidence)
    return ring_losses(confidence, state.share(view.ids).to(confidence.dtype))


CRL = Term("crl", CrlConfig, CLEAN, ranking_losses, state=CorrectnessHistory)
