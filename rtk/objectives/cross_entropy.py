"""Cross-entropy against hard or soft targets, and the term of the clean view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rtk.config.objective import TermConfig
from rtk.config.sections import Fraction, Weight
from rtk.objectives.term import CLEAN, Term

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.data.views.maker import View


class SmoothedConfig(TermConfig):
    """Base of the blocks of terms that are a cross-entropy."""

    label_smoothing: Fraction = Field(0.0, description="mass spread evenly over all classes")


class CrossEntropyConfig(SmoothedConfig):
    """Cross-entropy of the clean view."""

    weight: Weight = Field(1.0, description="factor of the term; 0 switches it off")


def soft_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Per-sample cross-entropy.

    With soft targets that mix two labels this is RegMixup's term,
    lam * CE(z, y_a) + (1 - lam) * CE(z, y_b) (Pinto et al. 2022, equation 3).

    Args:
        logits: (N, C).
        targets: labels (N,) int64, or distributions (N, C) whose rows sum to 1.
        label_smoothing: mass that is spread evenly over all C classes.

    Returns:
        Losses (N,) in nats.
    """
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)


def view_cross_entropy(logits: Tensor, view: View, config: SmoothedConfig, state: None) -> Tensor:
    """Losses (n,) of a view against its own targets."""
    return soft_cross_entropy(logits, view.targets, config.label_smoothing)


CROSS_ENTROPY = Term("cross_entropy", CrossEntropyConfig, CLEAN, view_cross_entropy)
