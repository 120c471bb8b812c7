"""Scores by histograms of training values: NAC (states of neurons), WeiPer (features and perturbed logits).

In float64 throughout, so that rounding moves no value from one bin to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad, softmax

from rtk.scores.hyperparameters import PositiveInt, PositiveNumber, Seed, Weight
from rtk.scores.moments import evenly_spread, row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

NacSpacing = Literal["uniform", "log"]

# Of the bins with logarithmic spacing, in the authors' code.
LOG_BASE = 1000.0


def fit_nac(
    fit_data: FitData,
    *,
    bins: PositiveInt = 50,
    spacing: NacSpacing = "log",
    steepness: PositiveNumber = 50.0,
    samples: PositiveInt = 1000,
) -> dict[str, Tensor]:
    """How many training images each neuron has in each bin of its state.

    Args:
        fit_data: its training images and head are used.
        bins: number of bins of [0, 1].
        spacing: "log", narrow near 1/2, where most states are (the authors' code, which the other values are
            of), or "uniform".
        steepness: of the sigmoid, see `nac`.
        samples: number of training images, spread evenly over all.

    Returns:
        `counts` (D, bins) and `edges` (bins + 1,), float64; and the head's `weight`.
    """
    train, weight = fit_data.train, fit_data.weight
    edges, dimensions = _edges(bins, spacing).to(weight.device), weight.shape[1]
    first = bins * torch.arange(dimensions, device=weight.device)
    counts = torch.zeros(dimensions * bins, dtype=torch.int64, device=weight.device)
    kept = (evenly_spread(values, samples) for values in (train.features, train.logits))
    for features, logits in row_chunks(*kept):
        places = _state_bins(features, logits, weight, edges, steepness)
        counts += torch.bincount((places + first).flatten(), minlength=len(counts))
    return {"counts": counts.reshape(dimensions, bins).double(), "edges": edges, "weight": weight}


def nac(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    steepness: PositiveNumber = 50.0,
    minimum: PositiveInt = 50,
) -> Tensor:
    """Neuron activation coverage: how well training images cover the states of an image's neurons.

    The state of penultimate neuron d is sigmoid(a f_d g_d), g = Wᵀ(p - 1/C) the gradient of the
    cross-entropy to the uniform law; the score is the mean over d of min(count in its bin / minimum, 1).

    Args:
        predictions: N images.
        tensors: of `fit_nac` with the same `steepness`.
        steepness: a.
        minimum: number of training images that cover a bin in full.

    Source: Liu et al., "Neuron activation coverage: rethinking out-of-distribution detection and
    generalization", ICLR 2024 (arXiv 2306.02879), of one layer; hyper-parameters as its code for CIFAR-100.
    """
    features, logits = predictions.features, predictions.logits
    places = _state_bins(features, logits, tensors["weight"], tensors["edges"], steepness)
    covered = (tensors["counts"] / minimum).clamp_max(1)
    return covered.gather(1, places.T).mean(dim=0).to(features.dtype)


def fit_weiper(
    fit_data: FitData,
    *,
    repeats: PositiveInt = 100,
    distance: PositiveNumber = 2.4,
    bins: PositiveInt = 100,
    samples: PositiveInt = 10_000,
    seed: Seed = 0,
) -> dict[str, Tensor]:
    """Perturbed heads, and the densities of the features and perturbed logits of training images.

    Args:
        fit_data: its training images and head are used.
        repeats: number of heads, R; memory grows with R C D, time as R heads.
        distance: length of a row's perturbation, over that of the row.
        bins: of a histogram.
        samples: largest number of training images, spread evenly over all.
        seed: the perturbations follow from it.

    Returns:
        `heads` (R, C, D) and `bias` (C,); and float64 `feature_edges` and `logit_edges` (bins + 1,),
        `feature_density` and `logit_density` (bins,).
    """
    shape = (repeats, *fit_data.weight.shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(fit_data.weight)
    return weiper_densities(fit_data, perturbed_heads(fit_data.weight, noise, distance), bins, samples)


def perturbed_heads(weight: Tensor, noise: Tensor, distance: float) -> Tensor:
    """Heads (R, C, D) whose rows are off those of `weight` (C, D) by their length times `distance`.

    Args:
        weight: (C, D).
        noise: (R, C, D), its rows give the directions.
        distance: relative length of the perturbation.
    """
    lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight + distance * lengths * noise / torch.linalg.vector_norm(noise, dim=2, keepdim=True)


def weiper_densities(fit_data: FitData, heads: Tensor, bins: int, samples: int) -> dict[str, Tensor]:
    """What `fit_weiper` returns, of given heads (R, C, D)."""
    features = evenly_spread(fit_data.train.features, samples)
    found = {"heads": heads, "bias": fit_data.bias}

    def values() -> Iterator[Tensor]:
        yield from (rows.double() for (rows,) in row_chunks(features))

    def logits() -> Iterator[Tensor]:
        yield from (part for rows in values() for part in _perturbed_logits(rows, found))

    for name, parts in {"feature": values, "logit": logits}.items():
        edges, density = _pooled_density(parts, bins)
        found |= {f"{name}_edges": edges, f"{name}_density": density}
    return found


def weiper(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    logit_weight: Weight = 0.1,
    msp_weight: Weight = 1.0,
    smoothing: PositiveInt = 4,
    logit_smoothing: PositiveInt = 40,
    epsilon: PositiveNumber = 0.01,
    logit_epsilon: PositiveNumber = 0.025,
) -> Tensor:
    """WeiPer+KLD: are an image's activations, and its logits under perturbed heads, spread as usual?

    -(KL_f + l1 KL_h - l2 MSP): KL_f the symmetric divergence between the histogram of the image's features
    and that of the training images, KL_h the same for its R C logits under R perturbed heads, MSP the mean
    of these heads' largest softmax probabilities.

    Args:
        predictions: N images.
        tensors: of `fit_weiper`.
        logit_weight: l1.
        msp_weight: l2.
        smoothing: bins that are averaged in the image's histogram of features.
        logit_smoothing: the same for logits.
        epsilon: added to all densities of features.
        logit_epsilon: the same for logits.

    Source: Granz et al., "WeiPer: OOD detection using weight perturbations of class projections", NeurIPS
    2024 (arXiv 2405.17164); hyper-parameters as its code for CIFAR-100.
    """
    features = predictions.features.double()
    own = _density(features, tensors["feature_edges"])
    divergence = _divergence(own, tensors["feature_density"], smoothing, epsilon)
    logits, certainty = torch.zeros_like(own), torch.zeros_like(divergence)
    for part in _perturbed_logits(features, tensors):
        logits += _density(part, tensors["logit_edges"])
        certainty += softmax(part, dim=1).amax(dim=1)
    logits, certainty = logits / len(tensors["heads"]), certainty / len(tensors["heads"])
    of_logits = _divergence(logits, tensors["logit_density"], logit_smoothing, logit_epsilon)
    score = msp_weight * certainty - divergence - logit_weight * of_logits
    return score.to(predictions.features.dtype)


def _edges(bins: int, spacing: NacSpacing) -> Tensor:
    """Ends (bins + 1,) of bins that fill [0, 1]."""
    even = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    if spacing == "uniform":
        return even
    lower = (1 + 2 * even.minimum(1 - even) * (LOG_BASE**0.5 - 1)).log() / torch.tensor(
        LOG_BASE
    ).double().log()
    return torch.where(even <= 0.5, lower, 1 - lower)


def _state_bins(features: Tensor, logits: Tensor, weight: Tensor, edges: Tensor, steepness: float) -> Tensor:
    """Bin (N, D) of the state of each neuron; 1 belongs to the last."""
    p = softmax(logits.double(), dim=1)
    gradient = (p - 1 / p.shape[1]) @ weight.double()
    states = torch.sigmoid(steepness * features.double() * gradient)
    return torch.bucketize(states, edges[1:-1], right=True)


def _perturbed_logits(features: Tensor, tensors: dict[str, Tensor]) -> Iterator[Tensor]:
    """Logits (N, C) of features (N, D), both float64, under one head after another."""
    for head in tensors["heads"]:
        yield torch.addmm(tensors["bias"].double(), features, head.double().T)


def _pooled_density(parts: Callable[[], Iterator[Tensor]], bins: int) -> tuple[Tensor, Tensor]:
    """Edges from the least to just above the largest of all values, and their share in each bin."""
    lows, highs = zip(*(part.aminmax() for part in parts()), strict=True)
    low, high = torch.stack(lows).amin(), torch.stack(highs).amax() + 1e-8
    edges = torch.linspace(low.item(), high.item(), bins + 1, dtype=torch.float64, device=low.device)
    total, count = torch.zeros_like(edges[1:]), 0
    for part in parts():
        total += _density(part, edges).sum(dim=0)
        count += len(part)
    return edges, total / count


def _density(values: Tensor, edges: Tensor) -> Tensor:
    """Share (N, bins) of the values (N, K) of a row in each bin; those beyond all bins count in none."""
    bins = len(edges) - 1
    width = ((edges[-1] - edges[0]) / bins).clamp_min(torch.finfo(edges.dtype).tiny)
    places = ((values - edges[0]) / width).floor_().clamp_(-1, bins).long().add_(1)
    counts = values.new_zeros(len(values), bins + 2)
    counts.scatter_add_(1, places, values.new_ones(1, 1).expand_as(values))
    return counts[:, 1:-1] / values.shape[1]


def _divergence(density: Tensor, usual: Tensor, smoothing: int, epsilon: float) -> Tensor:
    """Symmetric KL divergence (N,) between smoothed densities (N, bins) and the usual one (bins,)."""
    q = _lifted(_smoothed(density, smoothing), epsilon)
    p = _lifted(usual.unsqueeze(0), epsilon)
    return ((p - q) * (p.log() - q.log())).sum(dim=1)


def _smoothed(density: Tensor, width: int) -> Tensor:
    """Moving average over `width` bins, one more to the right where that is even; the ends are repeated."""
    left = (width - 1) // 2
    padded = pad(density.unsqueeze(1), (left, width - 1 - left), mode="replicate")
    return avg_pool1d(padded, width, stride=1).squeeze(1)


def _lifted(density: Tensor, epsilon: float) -> Tensor:
    raised = density + epsilon
    return raised / raised.sum(dim=1, keepdim=True)


ROWS = (
    Score("nac", nac, fit_nac, "features", search={"bins": (50, 500), "steepness": (1, 50)}),
    Score("weiper", weiper, fit_weiper, "features"),
)
