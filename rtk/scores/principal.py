"""Scores by the principal space of features, mapped first: NECO (standardised), CoP and CoRP (kernels)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from rtk.scores.hyperparameters import PositiveNumber, PositiveShare, Seed
from rtk.scores.moments import OfRows, mean_row, narrowed, second_moment
from rtk.scores.neighbours import exact_unit_rows
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score
from rtk.scores.subspace import Dimension, residual_norm


def fit_neco(
    fit_data: FitData, *, dim: Dimension = None, explained: PositiveShare = 0.9, standardize: bool = True
) -> dict[str, Tensor]:
    """Principal space of the training features.

    Args:
        fit_data: its training images are used.
        dim: dimension of the space, at most D; None: the fewest that hold `explained`.
        explained: share of the variance.
        standardize: whether every dimension is divided by its standard deviation.

    Returns:
        `mean` and `scale` (D,), `origin` (D,) from which a feature's length is measured, the mean of
        standardised ones or zero, and `basis` (D, dim); float64.

    Raises:
        ValueError: `dim` is larger than D.
    """
    features = fit_data.train.features
    if dim is not None and dim > features.shape[1]:
        raise ValueError(f"dim: got {dim}, wanted at most the {features.shape[1]} dimensions of the features")
    mean = mean_row(features)
    covariance = second_moment(features, mean)
    scale = _deviations(covariance, mean) if standardize else torch.ones_like(mean)
    spectrum, directions = _descending(covariance / scale / scale.unsqueeze(1))
    kept = dim or _dimension(spectrum, explained)
    origin = mean.clone() if standardize else torch.zeros_like(mean)
    return {"mean": mean, "scale": scale, "origin": origin, "basis": directions[:, :kept]}


def neco(predictions: Predictions, tensors: dict[str, Tensor], *, times_max_logit: bool = True) -> Tensor:
    """Share of a feature's length that lies in the principal space, |P f| / |f|, times the largest logit.

    Args:
        predictions: N images.
        tensors: of `fit_neco`.
        times_max_logit: whether the share is multiplied by the largest logit.

    Source: Ben Ammar et al., "NECO: neural collapse based out-of-distribution detection", ICLR 2024 (arXiv
    2310.06823).
    """
    features, scale = predictions.features.double(), tensors["scale"]
    length = torch.linalg.vector_norm((features - tensors["origin"]) / scale, dim=1)
    projected = ((features - tensors["mean"]) / scale) @ tensors["basis"]
    share = torch.linalg.vector_norm(projected, dim=1) / length.clamp_min(torch.finfo(length.dtype).eps)
    factor = predictions.logits.amax(dim=1) if times_max_logit else 1
    return narrowed(share * factor, predictions.features)


def fit_cop(fit_data: FitData, *, explained: PositiveShare = 0.9) -> dict[str, Tensor]:
    """Complement of the principal space of the training features of unit length.

    Args:
        fit_data: its training images are used.
        explained: share of the variance that the principal space holds.

    Returns:
        `origin` (D,), the mean, and `basis` (D, rest); float64.
    """
    return _complement(fit_data.train.features, exact_unit_rows, explained)


def cop(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the reconstruction error of f / |f| by its principal space: PCA in the cosine kernel's space.

    Source: Fang et al., "Kernel PCA for out-of-distribution detection", NeurIPS 2024 (arXiv 2402.02949).
    """
    return narrowed(-residual_norm(exact_unit_rows(predictions.features), tensors), predictions.features)


def fit_corp(
    fit_data: FitData,
    *,
    explained: PositiveShare = 0.8,
    gamma: PositiveNumber = 2.0,
    components: Dimension = None,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """As `fit_cop`, of random Fourier features of those of unit length.

    Args:
        fit_data: its training images are used.
        explained: share of the variance that the principal space holds.
        gamma: of the Gaussian kernel, exp(-gamma |a - b|^2).
        components: M, number of random features; None: 4 D, at most 4096, as the authors have them.
        seed: they follow from it.

    Returns:
        `frequencies` (M, D) and `phases` (M,), drawn; `origin` (M,) and `basis` (M, rest); float64.
    """
    features = fit_data.train.features
    generator = torch.Generator().manual_seed(seed)
    count = components or min(4 * features.shape[1], 4096)
    normal = torch.randn(count, features.shape[1], generator=generator, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    return corp_space(features, math.sqrt(2 * gamma) * normal, phases, explained)


def corp_space(features: Tensor, frequencies: Tensor, phases: Tensor, explained: float) -> dict[str, Tensor]:
    """What `fit_corp` returns, of given frequencies (M, D) and phases (M,)."""
    drawn = {"frequencies": frequencies.to(features.device), "phases": phases.to(features.device)}
    return drawn | _complement(features, partial(_fourier, drawn), explained)


def corp(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """`cop` in the space of a Gaussian kernel on top: of sqrt(2 / M) cos(w f / |f| + u).

    Source: Fang et al., NeurIPS 2024 (arXiv 2402.02949).
    """
    mapped = _fourier(tensors, predictions.features)
    return narrowed(-residual_norm(mapped, tensors), predictions.features)


def _fourier(drawn: dict[str, Tensor], features: Tensor) -> Tensor:
    """Random Fourier features (N, M) of features (N, D)."""
    frequencies = drawn["frequencies"]
    angles = torch.addmm(drawn["phases"], exact_unit_rows(features), frequencies.T)
    return angles.cos_().mul_(math.sqrt(2 / len(frequencies)))


def _complement(features: Tensor, of: OfRows, explained: float) -> dict[str, Tensor]:
    mean = mean_row(features, of)
    spectrum, directions = _descending(second_moment(features, mean, of=of))
    # At least one direction stays: without any, no image would have an error.
    kept = min(_dimension(spectrum, explained), len(mean) - 1)
    return {"origin": mean, "basis": directions[:, kept:]}


def _descending(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), the largest first, and eigenvectors (D, D) of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(0).clamp_min(0), vectors.flip(1)


def _dimension(spectrum: Tensor, explained: float) -> int:
    """The fewest leading eigenvalues whose sum is the share `explained` of all."""
    shares = spectrum.cumsum(0) / spectrum.sum().clamp_min(torch.finfo(spectrum.dtype).tiny)
    return min(int((shares < explained).sum()) + 1, len(spectrum))


def _deviations(covariance: Tensor, mean: Tensor) -> Tensor:
    """Standard deviations (D,), 1 where a dimension is constant but for rounding."""
    deviations = covariance.diagonal().sqrt()
    rounding = 10 * torch.finfo(deviations.dtype).eps * mean.abs()
    return torch.where(deviations > rounding, deviations, 1)


ROWS = (
    Score("neco", neco, fit_neco, "features"),
    Score("cop", cop, fit_cop, "features"),
    Score("corp", corp, fit_corp, "features"),
)
