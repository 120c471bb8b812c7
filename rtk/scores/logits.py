"""Scores of the logits alone: nothing to fit.

Every function takes logits z (N, C) and returns (N,), larger = more trustworthy. p = softmax(z), or
softmax(z / T) where a temperature T is given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from rtk.scores.hyperparameters import PositiveInt, PositiveNumber
from rtk.scores.score import Score

# Of RAT's code, as are its steps of the input.
RAT_TEMPERATURES: dict[str, tuple[float, ...]] = {
    "temperature": (0.2, 0.4, 0.6, 0.8, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 2, 2.5, 3, 100, 1000),
}
_TEMPERATURES = {"temperature": (1, 10, 100, 1000)}


def msp(logits: Tensor) -> Tensor:
    """Maximum softmax probability, max_c p_c.

    Source: Hendrycks & Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in
    neural networks", ICLR 2017 (arXiv 1610.02136).
    """
    return log_softmax(logits, dim=1).amax(dim=1).exp()


def max_logit(logits: Tensor) -> Tensor:
    """Largest logit, max_c z_c.

    Source: Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", ICML 2022
    (arXiv 1911.11132).
    """
    return logits.amax(dim=1)


def energy(logits: Tensor, *, temperature: PositiveNumber = 1.0) -> Tensor:
    """Minus the free energy, T log sum_c exp(z_c / T).

    Source: Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020 (arXiv 2010.03759).
    """
    return temperature * torch.logsumexp(logits / temperature, dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Minus the entropy of the softmax, sum_c p_c log p_c, in nats.

    Source: Shannon, "A mathematical theory of communication", 1948; a baseline in most comparisons.
    """
    log_p = log_softmax(logits, dim=1)
    return (log_p.exp() * log_p).sum(dim=1)


def gen(logits: Tensor, *, gamma: PositiveNumber = 0.1, m: PositiveInt = 100) -> Tensor:
    """Minus the generalised entropy of the M largest probabilities, -sum_c p_c^gamma (1 - p_c)^gamma.

    Args:
        logits: (N, C).
        gamma: exponent; small values amplify the tail of the softmax.
        m: number of probabilities; more than C means all.

    Source: Liu et al., "GEN: pushing the limits of softmax-based out-of-distribution detection", CVPR 2023.
    """
    log_p = log_softmax(logits, dim=1)
    largest, classes = log_p.topk(min(m, logits.shape[1]), dim=1)
    rest = log_complement(logits).gather(1, classes)
    return -torch.exp(gamma * (largest + rest)).sum(dim=1)


def doctor_alpha(logits: Tensor, *, temperature: PositiveNumber = 1.0) -> Tensor:
    """Minus DOCTOR's D_alpha, -(1 - g) / g with g = sum_c p_c^2.

    RAT's code returns -1 / g: one less, so the ranking is the same.

    Source: Granese et al., "DOCTOR: a simple method for detecting misclassification errors", NeurIPS 2021
    (arXiv 2106.02395).
    """
    scaled = logits / temperature
    log_p = log_softmax(scaled, dim=1)
    # 1 - g = sum_c p_c (1 - p_c), without the cancellation.
    complement = torch.exp(log_p + log_complement(scaled)).sum(dim=1)
    return -complement / log_p.exp().square().sum(dim=1)


def doctor_beta(logits: Tensor, *, temperature: PositiveNumber = 1.0) -> Tensor:
    """Minus DOCTOR's D_beta, -(1 - max_c p_c) / max_c p_c.

    Source: Granese et al., NeurIPS 2021 (arXiv 2106.02395).
    """
    return -torch.exp(-soft_margin(logits / temperature))


def odin_temperature(logits: Tensor, *, temperature: PositiveNumber = 1000.0) -> Tensor:
    """ODIN without its input step: max_c softmax(z / T)_c.

    At T = 1000 all values lie close to 1 / C; pass float64 logits where float32 ties matter.

    Source: Liang et al., "Enhancing the reliability of out-of-distribution image detection in neural
    networks", ICLR 2018 (arXiv 1706.02690).
    """
    return msp(logits / temperature)


def margin(logits: Tensor) -> Tensor:
    """Largest minus second largest logit; the log of the ratio of the two probabilities.

    Source: RAT_MisD, `LogitDiff`.
    """
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def soft_margin(logits: Tensor) -> Tensor:
    """Largest logit minus the log-sum-exp of all others, log(p / (1 - p)) of p = max_c p_c.

    Ranks as MSP does, but does not saturate: MSP in float32 is 1 from a margin of about 17 on.

    Source: RAT_MisD, `SoftLogitDiff`.
    """
    top, winner = logits.max(dim=1, keepdim=True)
    others = logits.scatter(1, winner, -torch.inf)
    return top.squeeze(1) - others.logsumexp(dim=1)


def log_complement(logits: Tensor) -> Tensor:
    """log(1 - p_c) (N, C), exact also where p_c rounds to 1."""
    log_rest = torch.log(-torch.expm1(log_softmax(logits, dim=1)))
    # Only the winner can be close to 1; its complement is the sum of the others.
    winner = logits.argmax(dim=1, keepdim=True)
    return log_rest.scatter(1, winner, logsigmoid(-soft_margin(logits)).unsqueeze(1))


ROWS = (
    Score("msp", msp),
    Score("max_logit", max_logit),
    Score("energy", energy, search=_TEMPERATURES),
    Score("entropy", entropy),
    Score("gen", gen, search={"gamma": (0.01, 0.1, 0.5, 1, 2, 5, 10), "m": (10, 50, 100, 200, 500, 1000)}),
    Score("doctor_alpha", doctor_alpha, rat_search=RAT_TEMPERATURES),
    Score("doctor_beta", doctor_beta, rat_search=RAT_TEMPERATURES),
    Score("odin_temperature", odin_temperature, search=_TEMPERATURES, rat_search=RAT_TEMPERATURES),
    Score("margin", margin),
    Score("soft_margin", soft_margin),
)
