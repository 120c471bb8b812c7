"""Cross-entropy against hard or soft targets, and the term of the clean view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rtk.config.objective import TermConfig
from rtk.config.sections import Fraction, PositiveFloat, Weight
from rtk.objectives.term import CLEAN, Term

if TYPE_CHECKING:
    from torch import Tensor

    from rtk.data.views.maker import View


class SmoothedConfig(TermConfig):
    """Base of the blocks of terms that are a cross-entropy."""

    label_smoothing: Fraction = Field(0.0, description="mass spread evenly over all classes")
    logit_norm: PositiveFloat | None = Field(
        None,
        description="LogitNorm: logits are scaled to the length 1 / tau (0.04 in its paper) in the loss, and "
        "stay raw elsewhere; null: they are not",
    )


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


def normalised_logits(logits: Tensor, tau: float) -> Tensor:
    """Logits z as z / (||z|| + 1e-7) / tau (LogitNorm, Wei et al., ICML 2022, equation 5, and its code).

    A loss of them cannot fall by longer logits, so that their length is left to tell what is known from what
    is not. Predictions and scores are of the raw logits.

    Args:
        logits: (N, C).
        tau: temperature.

    Returns:
        (N, C), rows of the length 1 / tau.
    """
    return logits / ((logits.norm(dim=1, keepdim=True) + 1e-7) * tau)


def view_cross_entropy(logits: Tensor, view: View, config: SmoothedConfig, state: None) -> Tensor:
    """Losses (n,) of a view against its own targets."""
    if config.logit_norm is not None:
        logits = normalised_logits(logits, config.logit_norm)
    return soft_cross_entropy(logits, view.targets, config.label_smoothing)


CROSS_ENTROPY = Term("cross_entropy", CrossEntropyConfig, CLEAN, view_cross_entropy)
