"""Scores of the logits that are fitted on the validation split: temperature scaling, KL matching.

p = softmax(z).
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rtk.scores.logits import msp
from rtk.scores.moments import group_means, row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

softmax = partial(torch.softmax, dim=1)

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature that minimises the mean negative log-likelihood of softmax(z / T).

    Newton's method on 1/T, in which the negative log-likelihood is convex, kept inside a shrinking bracket.
    The result lies in [0.01, 100]; it is 0.01 where the model makes no mistake, as none is too cold then.

    Args:
        logits: (N, C).
        labels: (N,) int64 in 0..C-1.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017 (arXiv 1706.04599).
    """
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    if _nll_slope_and_curvature(logits, labels, high)[0] <= 0:
        return COLDEST
    if _nll_slope_and_curvature(logits, labels, low)[0] >= 0:
        return HOTTEST
    for _ in range(100):
        slope, curvature = _nll_slope_and_curvature(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / max(curvature, 1e-300)
        proposal = step if low < step < high else math.sqrt(low * high)
        if abs(proposal - inverse) <= 1e-12 * inverse:
            break
        inverse = proposal
    return 1 / inverse


def fit_temperature_scaling(fit_data: FitData) -> dict[str, Tensor]:
    """`temperature` (), of `fit_temperature` on the validation split."""
    validation = fit_data.validation
    best = fit_temperature(validation.logits, validation.known_labels)
    return {"temperature": torch.tensor(best, dtype=torch.float64, device=validation.logits.device)}


def temperature_scaling(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Maximum softmax probability at the fitted temperature.

    Source: Guo et al., ICML 2017 (arXiv 1706.04599).
    """
    return msp(predictions.logits / tensors["temperature"].to(predictions.logits))


def fit_klm(fit_data: FitData) -> dict[str, Tensor]:
    """`templates` (C, C): mean softmax of the validation images predicted as each class.

    A class that is never predicted has a one-hot template.
    """
    logits = fit_data.validation.logits
    classes = logits.shape[1]
    templates, counts = group_means(logits, logits.argmax(dim=1), classes, of=softmax)
    empty = (counts == 0).unsqueeze(1)
    return {"templates": torch.where(empty, torch.eye(classes).to(templates), templates)}


def klm(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """KL matching: minus the smallest divergence from a class template, -min_c KL(p || m_c).

    Zero template entries count as the smallest normal float64 (OpenOOD: as zero, an infinite divergence).

    Source: Hendrycks et al., ICML 2022 (arXiv 1911.11132).
    """
    log_p = torch.log_softmax(predictions.logits.double(), dim=1)
    log_templates = tensors["templates"].to(log_p).clamp_min(torch.finfo(torch.float64).tiny).log()
    p = log_p.exp()
    divergence = (p * log_p).sum(dim=1, keepdim=True) - p @ log_templates.T
    return -divergence.amin(dim=1).to(predictions.logits.dtype)


def _nll_slope_and_curvature(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL of softmax(inverse * z): mean and variance of z under p."""
    slope = curvature = 0.0
    for rows, targets in row_chunks(logits, labels):
        excess = rows.double() - rows.double().gather(1, targets.unsqueeze(1))
        probs = torch.softmax(inverse * excess, dim=1)
        mean = (probs * excess).sum(dim=1, keepdim=True)
        slope += mean.sum().item()
        curvature += (probs * (excess - mean).square()).sum().item()
    return slope / len(logits), curvature / len(logits)


ROWS = (
    Score("temperature_scaling", temperature_scaling, fit_temperature_scaling, "features"),
    Score("klm", klm, fit_klm, "features"),
)
