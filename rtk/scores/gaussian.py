"""Mahalanobis scores: class-conditional Gaussians with one covariance. In float64 throughout."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rtk.scores.moments import (
    OfRows,
    correct_class,
    group_means,
    mean_row,
    narrowed,
    second_moment,
    wrong_class,
)
from rtk.scores.neighbours import exact_unit_rows
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score


def fit_mds(fit_data: FitData) -> dict[str, Tensor]:
    """Class means by label and the pooled covariance of the training features (divided by N).

    Returns:
        `whitening` (D, R), a square root of the covariance's pseudo-inverse, and `class_means` (C, R) in
        whitened coordinates; classes without a training image are left out.
    """
    return _class_gaussians(fit_data.train, fit_data.train.known_labels)


def mds(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the smallest squared Mahalanobis distance to a class mean, max_c -(f - m_c)ᵀ P (f - m_c).

    Penultimate features only, no input step.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
    attacks", NeurIPS 2018 (arXiv 1807.03888), eq. 2.
    """
    return _mds(predictions, tensors, Tensor.double)


def fit_rmds(fit_data: FitData) -> dict[str, Tensor]:
    """`fit_mds`, and one Gaussian for all training features.

    Returns:
        as `fit_mds`; and `background_whitening` (D, R) and `background_mean` (1, R).
    """
    return fit_mds(fit_data) | _background(fit_data.train, Tensor.double)


def rmds(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Relative Mahalanobis: `mds` plus the squared distance to the mean of all training features.

    Source: Ren et al., "A simple fix to Mahalanobis distance for improving near-OOD detection", 2021 (arXiv
    2106.09022).
    """
    return _rmds(predictions, tensors, Tensor.double)


def fit_mds_pp(fit_data: FitData, *, centres: Literal["classes", "all"] = "classes") -> dict[str, Tensor]:
    """`fit_mds` of features of unit length.

    Args:
        fit_data: its training images are used.
        centres: distances are to the nearest mean of a class, or to the mean of all images, under their
            covariance (SSD, arXiv 2103.12051; PALM's code), so that labels do not matter.
    """
    if centres == "all":
        one = _background(fit_data.train, exact_unit_rows)
        return {"whitening": one["background_whitening"], "class_means": one["background_mean"]}
    return _class_gaussians(fit_data.train, fit_data.train.known_labels, exact_unit_rows)


def mds_pp(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Mahalanobis++: `mds` of f / |f|, whose length says little of the class and breaks the Gaussians.

    Source: Mueller & Hein, "Mahalanobis++: improving OOD detection via feature normalization", ICML 2025
    (arXiv 2505.18032).
    """
    return _mds(predictions, tensors, exact_unit_rows)


def fit_rmds_pp(fit_data: FitData) -> dict[str, Tensor]:
    """`fit_rmds` of features of unit length."""
    classes = _class_gaussians(fit_data.train, fit_data.train.known_labels, exact_unit_rows)
    return classes | _background(fit_data.train, exact_unit_rows)


def rmds_pp(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Relative Mahalanobis++: `rmds` of f / |f|.

    Source: Mueller & Hein, ICML 2025 (arXiv 2505.18032).
    """
    return _rmds(predictions, tensors, exact_unit_rows)


def fit_delta_mds(fit_data: FitData) -> dict[str, Tensor]:
    """`fit_mds` of the correctly classified training images, and of the wrongly classified ones.

    A model that makes no mistake on its training images leaves out the second.

    Returns:
        as `fit_mds`, of the former; and `wrong_whitening` and `wrong_class_means`, of the latter.
    """
    train = fit_data.train
    wrong = _class_gaussians(train, wrong_class(train))
    return _class_gaussians(train, correct_class(train)) | {f"wrong_{k}": v for k, v in wrong.items()}


def delta_mds(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Is an image more like those that the model gets right, or those that it gets wrong?

    `mds` by the Gaussians of correctly classified training images minus `mds` by those of wrongly
    classified ones, both by label: the logarithm of a likelihood ratio. A score of confidence.

    Source: Heng & Soh, "Know when to abstain: optimal selective classification with likelihood ratios",
    NeurIPS 2025 (arXiv 2505.15008).
    """
    features = predictions.features
    right = _nearest(features.double(), tensors["whitening"], tensors["class_means"])
    wrong = _nearest(features.double(), tensors["wrong_whitening"], tensors["wrong_class_means"])
    return narrowed(wrong - right, features)


def _class_gaussians(train: Predictions, classes: Tensor, of: OfRows = Tensor.double) -> dict[str, Tensor]:
    """What `fit_mds` returns, by the class (N,) of each image; images of class C are left out."""
    num_classes = train.width[0]
    found = group_means(train.features, classes, num_classes + 1, of)
    means, counts = (part[:num_classes] for part in found)
    whitening = _whitening(second_moment(train.features, means, classes, of))
    return {"whitening": whitening, "class_means": means[counts > 0] @ whitening}


def _background(train: Predictions, of: OfRows) -> dict[str, Tensor]:
    mean = mean_row(train.features, of)
    whitening = _whitening(second_moment(train.features, mean, of=of))
    return {"background_whitening": whitening, "background_mean": mean.unsqueeze(0) @ whitening}


def _whitening(covariance: Tensor) -> Tensor:
    """W (D, R) with W Wᵀ = pinv(covariance), R its rank."""
    variances, directions = torch.linalg.eigh(covariance)
    tolerance = len(covariance) * torch.finfo(covariance.dtype).eps * variances[-1]
    kept = variances > tolerance
    return directions[:, kept] / variances[kept].sqrt()


def _mds(predictions: Predictions, tensors: dict[str, Tensor], of: OfRows) -> Tensor:
    features = predictions.features
    return narrowed(-_nearest(of(features), tensors["whitening"], tensors["class_means"]), features)


def _rmds(predictions: Predictions, tensors: dict[str, Tensor], of: OfRows) -> Tensor:
    features = of(predictions.features)
    background = _nearest(features, tensors["background_whitening"], tensors["background_mean"])
    nearest = _nearest(features, tensors["whitening"], tensors["class_means"])
    return narrowed(background - nearest, predictions.features)


def _nearest(features: Tensor, whitening: Tensor, means: Tensor) -> Tensor:
    """Smallest squared whitened distance (N,) of features (N, D) to means (C, R); zero without a mean."""
    if len(means) == 0:
        return features.new_zeros(len(features))
    return torch.cdist(features @ whitening, means).amin(dim=1).square()


ROWS = (
    Score("mds", mds, fit_mds, "features"),
    Score("rmds", rmds, fit_rmds, "features"),
    Score("mds_pp", mds_pp, fit_mds_pp, "features"),
    Score("rmds_pp", rmds_pp, fit_rmds_pp, "features"),
    Score("delta_mds", delta_mds, fit_delta_mds, "features"),
)
