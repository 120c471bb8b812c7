"""Scores of the logits that are fitted on the validation split: temperature scaling, RelU, KL matching.

p = softmax(z / T), T = 1 where there is none.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rtk.scores.hyperparameters import PositiveNumber, UnitInterval
from rtk.scores.logits import RAT_TEMPERATURES, msp
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


def fit_relu(
    fit_data: FitData, *, lmbda: UnitInterval = 0.5, temperature: PositiveNumber = 1.0
) -> dict[str, Tensor]:
    """RelU's matrix from right and wrong predictions of the validation split.

    A = max(lmbda mean_wrong[p pᵀ] - (1 - lmbda) mean_right[p pᵀ], 0), zero on the diagonal, divided by its
    Frobenius norm. Without a positive entry A is 1 off the diagonal before the division.

    Args:
        fit_data: its validation images are used.
        lmbda: weight of the wrong predictions, in [0, 1].
        temperature: T of the softmax, in fitting and scoring.

    Returns:
        `matrix` (C, C).
    """
    logits, labels = fit_data.validation.logits, fit_data.validation.known_labels
    right, wrong = _co_occurrences(logits, labels, temperature)
    matrix = (lmbda * wrong - (1 - lmbda) * right).clamp_min(0).fill_diagonal_(0)
    if not matrix.any():
        matrix = torch.ones_like(matrix).fill_diagonal_(0)
    return {"matrix": matrix / matrix.norm()}


def relu(
    predictions: Predictions, tensors: dict[str, Tensor], *, temperature: PositiveNumber = 1.0
) -> Tensor:
    """RelU, relative uncertainty: -pᵀ A p, where A says which classes appear together in mistakes.

    Source: Dadalto et al., "A data-driven measure of relative uncertainty for misclassification detection",
    ICLR 2024 (arXiv 2306.01710).
    """
    probs = torch.softmax(predictions.logits / temperature, dim=1)
    return -((probs @ tensors["matrix"].to(probs)) * probs).sum(dim=1)


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


def _co_occurrences(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean of p pᵀ (C, C) over the right predictions and over the wrong ones; zero for none."""
    sums, counts = logits.new_zeros(2, logits.shape[1], logits.shape[1]), [0, 0]
    for rows, targets in row_chunks(logits, labels):
        wrong = rows.argmax(dim=1) != targets
        for place, chosen in enumerate((~wrong, wrong)):
            probs = softmax(rows[chosen] / temperature)
            sums[place].addmm_(probs.T, probs)
            counts[place] += len(probs)
    return sums[0] / max(counts[0], 1), sums[1] / max(counts[1], 1)


ROWS = (
    Score("temperature_scaling", temperature_scaling, fit_temperature_scaling, "features"),
    Score("relu", relu, fit_relu, "features", rat_search=RAT_TEMPERATURES),
    Score("klm", klm, fit_klm, "features"),
)
