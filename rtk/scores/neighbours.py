"""Scores by the training features near an image: kNN, Delta-KNN, NNGuide and Relation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softmax

from rtk.scores.hyperparameters import PositiveInt, PositiveShare, UnitInterval
from rtk.scores.logits import energy
from rtk.scores.moments import evenly_spread
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


def fit_delta_knn(fit_data: FitData) -> dict[str, Tensor]:
    """Keep the training features, `bank` (M, D), not copied, and which are classified right, `correct`."""
    train = fit_data.train
    return {"bank": train.features, "correct": train.logits.argmax(dim=1) == train.known_labels}


def delta_knn(predictions: Predictions, tensors: dict[str, Tensor], *, k: PositiveInt = 50) -> Tensor:
    """Is an image nearer to those that the model gets right, or to those that it gets wrong?

    The mean of -log(d^2 + 1e-6) over the k nearest correctly classified training images minus the same over
    the k nearest wrongly classified ones, d between features of unit length: the logarithm of a likelihood
    ratio. A score of confidence. Where there are fewer of one kind it takes all of them, of none nothing.

    Args:
        predictions: N images.
        tensors: of `fit_delta_knn`.
        k: number of neighbours of each kind.

    Source: Heng & Soh, "Know when to abstain: optimal selective classification with likelihood ratios",
    NeurIPS 2025 (arXiv 2505.15008).
    """
    features, bank, correct = predictions.features.double(), tensors["bank"], tensors["correct"]
    right, wrong = (_log_closeness(features, bank, k, kept) for kept in (correct, ~correct))
    return (right - wrong).to(predictions.features.dtype)


def _log_closeness(features: Tensor, bank: Tensor, k: int, kept: Tensor) -> Tensor:
    """Mean (N,) of -log(d^2 + 1e-6) over the k nearest of the bank that are kept; zero if none is."""
    nearest = min(k, int(kept.sum()))
    if nearest == 0:
        return features.new_zeros(len(features))
    squared = 2 - 2 * largest_similarities(features, bank, nearest, kept=kept)
    return -(squared.clamp_min(0) + 1e-6).log().mean(dim=1)


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
    size = max(math.ceil(fraction * len(train)), k)
    return {
        "bank": evenly_spread(train.features, size),
        "energy": energy(evenly_spread(train.logits, size)),
    }


def nnguide(predictions: Predictions, tensors: dict[str, Tensor], *, k: PositiveInt = 100) -> Tensor:
    """Energy, guided by the k best matches in the bank: E(z) * mean_k of E_b cos(f, b).

    Source: Park et al., "Nearest neighbor guidance for out-of-distribution detection", ICCV 2023 (arXiv
    2309.14888); fraction and k as OpenOOD.
    """
    matches = largest_similarities(predictions.features, tensors["bank"], k, tensors["energy"])
    return energy(predictions.logits) * matches.mean(dim=1)


def fit_relation(fit_data: FitData, *, fraction: PositiveShare = 1.0) -> dict[str, Tensor]:
    """Keep training features and logits, `bank` (M, D) and `bank_logits` (M, C), not copied if all are kept.

    Args:
        fit_data: its training images are used.
        fraction: part of them to keep, spread evenly; its cost is the only reason to keep less.
    """
    train = fit_data.train
    size = math.ceil(fraction * len(train))
    return {
        "bank": evenly_spread(train.features, size),
        "bank_logits": evenly_spread(train.logits, size),
    }


def relation(
    predictions: Predictions,
    tensors: dict[str, Tensor],
    *,
    power: PositiveInt = 1,
    threshold: UnitInterval = 0.03,
) -> Tensor:
    """Summed relations to the training images, sum_i r_i^power with r_i = max(0, cos(f, f_i)) p·p_i.

    Args:
        predictions: N images.
        tensors: of `fit_relation`.
        power: exponent of a relation.
        threshold: relations up to it count nothing.

    Source: Kim et al., "Neural relation graph: a unified framework for identifying label noise and outlier
    data", NeurIPS 2023 (arXiv 2301.12321).
    """
    features = unit_rows(predictions.features)
    softmaxes = softmax(predictions.logits, dim=1)
    total = features.new_zeros(len(features), dtype=torch.float64)
    for start in range(0, len(tensors["bank"]), BANK_CHUNK):
        rows = slice(start, start + BANK_CHUNK)
        related = features @ unit_rows(tensors["bank"][rows].to(features)).T
        related.clamp_min_(0).mul_(softmaxes @ softmax(tensors["bank_logits"][rows].to(softmaxes), dim=1).T)
        related.masked_fill_(related <= threshold, 0)
        total += related.pow_(power).sum(dim=1)
    return total.to(features.dtype)


def largest_similarities(
    queries: Tensor, bank: Tensor, k: int, weight: Tensor | None = None, kept: Tensor | None = None
) -> Tensor:
    """The k largest of weight_b cos(q, b) over the bank, in descending order, (N, k).

    The bank is walked in chunks and may lie on another device than the queries: only a chunk is moved.

    Args:
        queries: (N, D).
        bank: (M, D).
        k: at most M.
        weight: (M,) factor of each bank entry; None: 1.
        kept: (M,) booleans, entries that count, at least k; None: all. Not together with `weight`.

    Raises:
        ValueError: k is larger than the bank.
    """
    if k > len(bank):
        raise ValueError(f"k: got {k}, wanted at most {len(bank)}, the training images kept")
    queries = unit_rows(queries)
    best, similarity = queries.new_empty(len(queries), 0), queries.new_empty(0)
    for start in range(0, len(bank), BANK_CHUNK):
        rows = slice(start, start + BANK_CHUNK)
        part = bank[rows] if kept is None else bank[rows][kept[rows].to(bank.device)]
        if len(part) == 0:
            continue
        part = unit_rows(part.to(queries))
        # Into the same memory for every chunk: fresh pages cost as much as finding the largest.
        torch.mm(queries, part.T, out=similarity.resize_(len(queries), len(part)))
        if weight is not None:
            similarity *= weight[rows].to(queries)
        candidates = torch.cat([best, similarity.topk(min(k, similarity.shape[1]), dim=1).values], dim=1)
        best = candidates.topk(min(k, candidates.shape[1]), dim=1).values
    return best


def exact_unit_rows(values: Tensor) -> Tensor:
    """`unit_rows` in float64."""
    return unit_rows(values.double())


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
    Score("delta_knn", delta_knn, fit_delta_knn, "features"),
    Score("relation", relation, fit_relation, "features", search={"power": (1, 2, 4, 6, 8)}),
)
