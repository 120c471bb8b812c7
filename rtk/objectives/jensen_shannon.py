"""Divergence between the predictions for several versions of an image."""

from __future__ import annotations

from torch import Tensor


def jensen_shannon(logits: Tensor) -> Tensor:
    """Per-sample Jensen-Shannon divergence, the mean of KL(p_v || M) over versions v, M being their mean.

    AugMix's consistency loss (Hendrycks et al., ICLR 2020, equation 2), with the gradient through M.

    Args:
        logits: (N, V, C) of V versions of N images.

    Returns:
        Losses (N,) in nats, from 0 (all versions predicted alike) to log V.
    """
    log_p = logits.log_softmax(-1)
    # logsumexp of log-probabilities, so that no probability is rounded to 0 before its logarithm.
    log_mean = log_p.logsumexp(1, keepdim=True) - _log_count(logits)
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean(1)


def _log_count(logits: Tensor) -> Tensor:
    return logits.new_tensor(logits.shape[1]).log()
