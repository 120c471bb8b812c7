"""OpenMax: how far the logits are from their class's mean, against the extremes seen in training."""

from __future__ import annotations

import torch
from torch import Tensor

from rtk.scores.hyperparameters import PositiveInt
from rtk.scores.moments import correct_class, group_means, row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

# Equal distances (a class with one or two correct images) would have an infinite shape: a step.
SMALLEST_SHAPE, LARGEST_SHAPE = 1e-3, 1e3


def fit_openmax(fit_data: FitData, *, tail: PositiveInt = 20) -> dict[str, Tensor]:
    """Mean logits of the correctly classified training images of each class, and a Weibull of the far ones.

    The Weibull is fitted to x = d - smallest + 1, d the `tail` largest Euclidean distances to the class mean
    and `smallest` the least of these (libmr's translation). A class without a correct image has mean zero and
    a step at distance zero: nothing is known of it, so that it counts as unknown.

    Args:
        fit_data: its training images are used.
        tail: number of distances that the Weibull is fitted to.

    Returns:
        `means` (C, C); `scale`, `shape` and `smallest` (C,), float64.
    """
    train = fit_data.train
    classes = train.width[0]
    groups = correct_class(train)
    means, _ = group_means(train.logits, groups, classes + 1)
    parts = row_chunks(train.logits, groups)
    distances = torch.cat([torch.linalg.vector_norm(z.double() - means[group], dim=1) for z, group in parts])
    fitted = [_fit_tail(distances[groups == c], tail) for c in range(classes)]
    scale, shape, smallest = means.new_tensor(fitted).unbind(dim=1)
    return {"means": means[:classes], "scale": scale, "shape": shape, "smallest": smallest}


def openmax(predictions: Predictions, tensors: dict[str, Tensor], *, alpha: PositiveInt = 3) -> Tensor:
    """Minus OpenMax's probability of the unknown class.

    The `alpha` largest logits are revised: z'_c = z_c (1 - w_c a_c) with w_c the Weibull CDF of the distance
    to the mean of class c and a = 1, (alpha - 1) / alpha, ..., 1 / alpha by rank. What they lose is the logit
    of the unknown class, sum_c (z_c - z'_c), and the softmax runs over C + 1 classes.

    Args:
        predictions: N images.
        tensors: of `fit_openmax`.
        alpha: number of logits that are revised; with fewer classes, all.

    Source: Bendale & Boult, "Towards open set deep networks", CVPR 2016 (arXiv 1511.06233), algorithm 2; tail
    and alpha as OpenOOD.
    """
    logits = predictions.logits.double()
    top, ranked = logits.topk(min(alpha, logits.shape[1]), dim=1)
    share = 1 - torch.arange(top.shape[1], device=top.device, dtype=top.dtype) / alpha
    lost = top * _weibull_cdf(logits, ranked, tensors) * share
    revised = logits.scatter_add(1, ranked, -lost)
    unknown = lost.sum(dim=1, keepdim=True)
    probs = torch.softmax(torch.cat([revised, unknown], dim=1), dim=1)
    return -probs[:, -1].to(predictions.logits.dtype)


def _weibull_cdf(logits: Tensor, ranked: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """w_c(|z - m_c|) (N, A) for the classes `ranked` (N, A) of each image."""
    means, scale, shape, smallest = (
        tensors[key].to(logits) for key in ("means", "scale", "shape", "smallest")
    )
    distance = torch.linalg.vector_norm(logits.unsqueeze(1) - means[ranked], dim=2)
    x = (distance - smallest[ranked] + 1).clamp_min(0)
    return -torch.expm1(-((x / scale[ranked]) ** shape[ranked]))


def _fit_tail(distances: Tensor, tail: int) -> tuple[float, float, float]:
    """Weibull scale and shape of the largest distances, translated, and the smallest of these."""
    if len(distances) == 0:
        return 1.0, LARGEST_SHAPE, 0.0
    largest = distances.topk(min(tail, len(distances))).values
    smallest = largest[-1]
    scale, shape = fit_weibull(largest - smallest + 1)
    return scale, shape, float(smallest)


def fit_weibull(x: Tensor) -> tuple[float, float]:
    """Maximum-likelihood scale and shape of a two-parameter Weibull distribution.

    The shape k solves sum x^k log x / sum x^k - 1 / k = mean log x, whose left side grows with k: bisection
    of log k between 1e-3 and 1e3. The scale is then (mean x^k)^(1 / k).

    Args:
        x: (N,) positive values.
    """
    # In units of the largest value no power overflows.
    unit = x.max()
    log_x = (x / unit).log()
    low, high = SMALLEST_SHAPE, LARGEST_SHAPE
    for _ in range(60):
        shape = (low * high) ** 0.5
        power = torch.exp(shape * log_x)
        excess = (power * log_x).sum() / power.sum() - 1 / shape - log_x.mean()
        low, high = (shape, high) if excess < 0 else (low, shape)
    scale = unit * torch.exp(high * log_x).mean() ** (1 / high)
    return float(scale), high


ROWS = (Score("openmax", openmax, fit_openmax, "features"),)
