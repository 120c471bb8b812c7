"""Mahalanobis scores: class-conditional Gaussians with one covariance. In float64 throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from rtk.scores.moments import group_means, mean_row, second_moment
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score


def fit_mds(fit_data: FitData) -> dict[str, Tensor]:
    """Class means by label and the pooled covariance of the training features (divided by N).

    Returns:
        `whitening` (D, R), a square root of the covariance's pseudo-inverse, and `class_means` (C, R) in
        whitened coordinates; classes without a training image are left out.
    """
    train = fit_data.train
    means, counts = group_means(train.features, train.known_labels, train.width[0])
    whitening = _whitening(second_moment(train.features, means, train.known_labels))
    return {"whitening": whitening, "class_means": means[counts > 0] @ whitening}


def mds(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the smallest squared Mahalanobis distance to a class mean, max_c -(f - m_c)ᵀ P (f - m_c).

    Penultimate features only, no input step.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
    attacks", NeurIPS 2018 (arXiv 1807.03888), eq. 2.
    """
    return _narrowed(-_nearest_class(predictions, tensors), predictions.features)


def fit_rmds(fit_data: FitData) -> dict[str, Tensor]:
    """`fit_mds`, and one Gaussian for all training features.

    Returns:
        as `fit_mds`; and `background_whitening` (D, R) and `background_mean` (1, R).
    """
    features = fit_data.train.features
    mean = mean_row(features)
    whitening = _whitening(second_moment(features, mean))
    background = {"background_whitening": whitening, "background_mean": mean.unsqueeze(0) @ whitening}
    return fit_mds(fit_data) | background


def rmds(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Relative Mahalanobis: `mds` plus the squared distance to the mean of all training features.

    Source: Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection", 2021 (arXiv
    2106.09022).
    """
    background = _nearest(predictions.features, tensors["background_whitening"], tensors["background_mean"])
    return _narrowed(background - _nearest_class(predictions, tensors), predictions.features)


def _whitening(covariance: Tensor) -> Tensor:
    """W (D, R) with W Wᵀ = pinv(covariance), R its rank."""
    variances, directions = torch.linalg.eigh(covariance)
    tolerance = len(covariance) * torch.finfo(covariance.dtype).eps * variances[-1]
    kept = variances > tolerance
    return directions[:, kept] / variances[kept].sqrt()


def _nearest_class(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    return _nearest(predictions.features, tensors["whitening"], tensors["class_means"])


def _nearest(features: Tensor, whitening: Tensor, means: Tensor) -> Tensor:
    """Smallest squared whitened distance (N,) float64 of features (N, D) to means (C, R)."""
    return torch.cdist(features.to(whitening) @ whitening, means).amin(dim=1).square()


def _narrowed(values: Tensor, like: Tensor) -> Tensor:
    """Values in the type of others, those beyond its range at the end of it."""
    limits = torch.finfo(like.dtype)
    return values.clamp(limits.min, limits.max).to(like.dtype)


ROWS = (Score("mds", mds, fit_mds, "features"), Score("rmds", rmds, fit_rmds, "features"))
