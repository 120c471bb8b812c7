"""Scores by the part of a feature outside the principal space: ViM, Residual."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from rtk.scores.hyperparameters import Limit, is_positive_int
from rtk.scores.logits import energy
from rtk.scores.moments import row_chunks, second_moment
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

ResidualSplit = Literal["train", "validation"]
Dimension = Annotated[
    int | None,
    Limit("a positive integer or None", lambda value: value is None or is_positive_int(value)),
]


def fit_vim(fit_data: FitData, *, dim: Dimension = None) -> dict[str, Tensor]:
    """Residual space of the training features, and what a residual is worth in logits.

    Args:
        fit_data: its training images and head are used.
        dim: dimension of the principal space, below D; None: 256, or half of D where that is less.

    Returns:
        `origin` (D,), `basis` (D, D - dim), and `alpha` (), mean largest logit / mean residual norm.

    Raises:
        ValueError: `dim` leaves no residual space.
    """
    train = fit_data.train
    space = residual_space(train.features, fit_data, _principal_dim(dim, train.width[1], 256))
    norms = torch.cat([residual_norm(rows, space) for (rows,) in row_chunks(train.features)])
    # Features that fill the principal space only have no residual: ViM is the energy then.
    mean_norm = norms.double().mean().clamp_min(torch.finfo(norms.dtype).eps)
    alpha = train.logits.amax(dim=1).double().mean() / mean_norm
    return {**space, "alpha": alpha}


def vim(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Virtual-logit matching: energy minus alpha times the norm of the residual.

    Source: Wang et al., "ViM: out-of-distribution with virtual-logit matching", CVPR 2022 (arXiv
    2203.10807).
    """
    residual = residual_norm(predictions.features, tensors)
    return energy(predictions.logits) - tensors["alpha"].to(residual) * residual


def fit_residual(
    fit_data: FitData, *, dim: Dimension = None, split: ResidualSplit = "train"
) -> dict[str, Tensor]:
    """Residual space of the features.

    Args:
        fit_data: one of its splits and its head are used.
        dim: dimension of the principal space, below D; None: 512, or half of D where that is less.
        split: "train" (the paper) or "validation" (OpenOOD's code).

    Returns:
        `origin` (D,) and `basis` (D, D - dim).

    Raises:
        ValueError: `dim` leaves no residual space.
    """
    features = (fit_data.train if split == "train" else fit_data.validation).features
    return residual_space(features, fit_data, _principal_dim(dim, features.shape[1], 512))


def residual(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the norm of the residual.

    Source: Wang et al., CVPR 2022 (arXiv 2203.10807).
    """
    return -residual_norm(predictions.features, tensors)


def residual_space(features: Tensor, fit_data: FitData, dim: int) -> dict[str, Tensor]:
    """Orthogonal complement of the `dim` main directions of features (N, D).

    Returns:
        `origin` (D,) = -pinv(W) b, where all logits are zero, and `basis` (D, D - dim); float64.
    """
    origin = -torch.linalg.pinv(fit_data.weight.double()) @ fit_data.bias.double()
    # Eigenvalues come in ascending order: the last `dim` directions are the principal space.
    _, directions = torch.linalg.eigh(second_moment(features, origin))
    return {"origin": origin, "basis": directions[:, : features.shape[1] - dim]}


def residual_norm(features: Tensor, space: dict[str, Tensor]) -> Tensor:
    """Norm (N,) of features (N, D) minus the origin, projected on the residual space."""
    basis = space["basis"]
    projected = (features.to(basis) - space["origin"].to(basis)) @ basis
    return torch.linalg.vector_norm(projected, dim=1).to(features.dtype)


def _principal_dim(dim: int | None, features: int, published: int) -> int:
    if dim is None:
        return published if published < features else features // 2
    if dim >= features:
        raise ValueError(f"dim: got {dim}, wanted less than the {features} dimensions of the features")
    return dim


ROWS = (
    Score("vim", vim, fit_vim, "features", search={"dim": (256, 1000)}),
    Score("residual", residual, fit_residual, "features"),
)
