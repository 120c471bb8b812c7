"""Scores by the nearest training features: kNN and NNGuide."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rtk.scores.hyperparameters import PositiveInt, PositiveShare
from rtk.scores.logits import energy
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

BANK_CHUNK = 8192
# Squared distances below it are computed again in float64: 2 - 2 cos in float32 is off by some 1e-7, which
# ranks the images of a class by noise where its features lie close together.
TIGHT = 1e-2


def fit_knn(fit_data: FitData) -> dict[str, Tensor]:
    """Keep the training features: `bank` (M, D), not copied."""
    return {"bank": fit_data.train.features}


def knn(predictions: Predictions, tensors: dict[str, Tensor], *, k: PositiveInt = 50) -> Tensor:
    """Minus the squared Euclidean distance to the k-th nearest training feature, all of unit length.

    For unit vectors this is 2 q·b_(k) - 2 with the k-th largest inner product, in float64 where the two are
    close. The paper takes the distance itself, OpenOOD's index the square: the ranking is the same.

    Args:
        predictions: N images.
        tensors: of `fit_knn`.
        k: which neighbour, at most the size of the bank.

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022 (arXiv
    2204.06507); k = 50 as OpenOOD.
    """
    features, bank = predictions.features, tensors["bank"]
    score = 2 * largest_similarities(features, bank, k)[:, -1] - 2
    tight = score > -TIGHT
    if features.dtype != torch.float64 and tight.any():
        exact = 2 * largest_similarities(features[tight].double(), bank, k)[:, -1] - 2
        score[tight] = exact.clamp_max(0).to(score.dtype)
    return score


def fit_nnguide(
    fit_data: FitData, *, fraction: PositiveShare = 0.01, k: PositiveInt = 100
) -> dict[str, Tensor]:
    """Keep a part of the training features and their energies: `bank` (M, D) and `energy` (M,).

    OpenOOD takes the first images of a shuffled loader; here the part is spread evenly over the training set,
    the same in every run, and never smaller than the k neighbours that are needed.

    Args:
        fit_data: its training images are used.
        fraction: part of the training images to keep.
        k: number of neighbours that scoring will use.
    """
    train = fit_data.train
    size = min(len(train), max(math.ceil(fraction * len(train)), k))
    kept = torch.arange(size, device=train.features.device) * len(train) // size
    return {"bank": train.features[kept], "energy": energy(train.logits[kept])}


def nnguide(predictions: Predictions, tensors: dict[str, Tensor], *, k: PositiveInt = 100) -> Tensor:
    """Energy, guided by the k best matches in the bank: E(z) * mean_k of E_b cos(f, b).

    Source: Park et al., "Nearest neighbor guidance for out-of-distribution detection", ICCV 2023 (arXiv
    2309.14888); fraction and k as OpenOOD.
    """
    matches = largest_similarities(predictions.features, tensors["bank"], k, tensors["energy"])
    return energy(predictions.logits) * matches.mean(dim=1)


def largest_similarities(queries: Tensor, bank: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """The k largest of weight_b cos(q, b) over the bank, in descending order, (N, k).

    The bank is walked in chunks and may lie on another device than the queries: only a chunk is moved.

    Args:
        queries: (N, D).
        bank: (M, D).
        k: at most M.
        weight: (M,) factor of each bank entry; None: 1.

    Raises:
        ValueError: k is larger than the bank.
    """
    if k > len(bank):
        raise ValueError(f"k: got {k}, wanted at most {len(bank)}, the training images kept")
    queries = unit_rows(queries)
    best, similarity = queries.new_empty(len(queries), 0), queries.new_empty(0)
    for start in range(0, len(bank), BANK_CHUNK):
        rows = slice(start, start + BANK_CHUNK)
        part = unit_rows(bank[rows].to(queries))
        # Into the same memory for every chunk: fresh pages cost as much as finding the largest.
        torch.mm(queries, part.T, out=similarity.resize_(len(queries), len(part)))
        if weight is not None:
            similarity *= weight[rows].to(queries)
        candidates = torch.cat([best, similarity.topk(min(k, similarity.shape[1]), dim=1).values], dim=1)
        best = candidates.topk(min(k, candidates.shape[1]), dim=1).values
    return best


def unit_rows(values: Tensor) -> Tensor:
    """Rows (N, D) of unit length; a zero row stays zero.

    They are scaled by their largest entry first: squares of very large or small entries leave the range.
    """
    largest = values.abs().amax(dim=1, keepdim=True)
    scaled = values / torch.where(largest > 0, largest, 1)
    return scaled.div_(torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1))


ROWS = (
    Score("knn", knn, fit_knn, "features", search={"k": (50, 100, 200, 500, 1000)}),
    Score("nnguide", nnguide, fit_nnguide, "features"),
)
