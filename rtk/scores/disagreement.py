"""Scores of an ensemble: by how much its members disagree on an image, whatever they say together.

Members' logits z_m = W_m f_m + b_m are products of the features that an ensemble has kept side by side, so
that nothing runs the networks again. p_m = softmax(z_m), and p is the mean of the M of them. Each returns
(N,), larger = more trustworthy; an ensemble that agrees scores 0, or 1 where votes are counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score


def mutual_information(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the mutual information of class and member, -(H[p] - mean_m H[p_m]), in nats.

    What is left of the predictive entropy without the entropy that members have by themselves: the
    uncertainty that more data would take away (BALD). `entropy` is the predictive entropy alone.

    Source: Depeweg et al., "Decomposition of uncertainty in Bayesian deep learning for efficient and
    risk-sensitive learning", ICML 2018 (arXiv 1710.07283); of ensembles, Malinin & Gales, "Uncertainty
    estimation in autoregressive structured prediction", ICLR 2021 (arXiv 2002.07650).
    """
    log_p = _member_log_probabilities(predictions, tensors)
    log_mean = log_p.logsumexp(dim=0) - math.log(len(log_p))
    # As the mean divergence of the members from the mean: no difference of two entropies that are alike.
    return -_divergence(log_p, log_mean).mean(dim=0).clamp_min(0)


def pairwise_kl(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the expected pairwise Kullback-Leibler divergence, mean over m != k of KL(p_m || p_k), in nats.

    Source: Malinin & Gales, ICLR 2021 (arXiv 2002.07650), EPKL, over pairs of different members.
    """
    log_p = _member_log_probabilities(predictions, tensors)
    members = len(log_p)
    from_others = [_divergence(log_p, log_p.roll(shift, 0)).mean(dim=0) for shift in range(1, members)]
    return -torch.stack(from_others).mean(dim=0).clamp_min(0)


def vote_share(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Share of the members whose class most of them predict: one minus the variation ratio.

    It has no more values than there are members; images that all agree on are not told apart.

    Source: Freeman, "Elementary applied statistics", 1965; of networks, Gal, "Uncertainty in deep learning",
    2016, section 3.3.1.
    """
    log_p = _member_log_probabilities(predictions, tensors)
    votes = log_p.argmax(dim=2)
    same = (votes.unsqueeze(0) == votes.unsqueeze(1)).sum(dim=0)
    return same.amax(dim=0).to(log_p) / len(votes)


def keep_members(fit_data: FitData) -> dict[str, Tensor]:
    """The members' heads: `weight` (C, D), side by side, `bias` (M, C) and `widths` (M,) of the features.

    Raises:
        ValueError: they are of one network.
    """
    if not fit_data.members:
        raise ValueError("members: got one network, wanted an ensemble, whose members may disagree")
    weights, biases = zip(*fit_data.members, strict=True)
    widths = torch.tensor([weight.shape[1] for weight in weights])
    return {"weight": torch.cat(weights, dim=1), "bias": torch.stack(biases), "widths": widths}


def _member_log_probabilities(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """log p_m (M, N, C)."""
    widths = tensors["widths"].tolist()
    parts = zip(predictions.features.split(widths, 1), tensors["weight"].split(widths, 1), strict=True)
    logits = torch.stack([features @ weight.to(features).T for features, weight in parts])
    return log_softmax(logits + tensors["bias"].to(logits).unsqueeze(1), dim=2)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension; classes that p gives no probability add nothing."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(dim=-1)


ROWS = tuple(
    Score(score.__name__, score, keep_members, inputs="features", of_ensembles=True)
    for score in (mutual_information, pairwise_kl, vote_share)
)
