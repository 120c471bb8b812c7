"""Cross-entropy against hard or soft targets."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


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
    return cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
