"""GradNorm: the gradient of the head's weights, in closed form, without a backward pass."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softmax

from rtk.scores.predictions import Predictions
from rtk.scores.score import Score


def gradnorm(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """L1 norm of the head weights' gradient of KL(uniform | softmax), sum_c |p_c - 1/C| |f|_1.

    OpenOOD sums the cross-entropy over the classes: C times this, so the ranking is the same.

    Source: Huang et al., "On the importance of gradients for detecting distributional shifts in the wild",
    NeurIPS 2021 (arXiv 2110.00218).
    """
    p = softmax(predictions.logits, dim=1)
    return (p - 1 / p.shape[1]).abs().sum(dim=1) * predictions.features.abs().sum(dim=1)


ROWS = (Score("gradnorm", gradnorm, inputs="features"),)
