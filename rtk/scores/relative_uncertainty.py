"""RelU: how uncertain the classes are that appear together in mistakes; alone, and after a step of the input.

p = softmax(z / T). Both are fitted on images that were not trained on.

Source: Dadalto et al., "A data-driven measure of relative uncertainty for misclassification detection", ICLR
2024 (arXiv 2306.01710).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from torch import Tensor, nn

from rtk.scores.gradients import RAT_STEPS, InputStep, forward, stepped
from rtk.scores.hyperparameters import Limit, PositiveNumber, UnitInterval
from rtk.scores.image_fit import ImagePass, Tensors
from rtk.scores.logits import RAT_TEMPERATURES
from rtk.scores.moments import row_chunks
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score

# A matrix for each is fitted with the images.
TEMPERATURES = RAT_TEMPERATURES["temperature"]
RatTemperature = Annotated[
    float, Limit(f"one of {', '.join(map(str, TEMPERATURES))}", lambda value: value in TEMPERATURES)
]
LAMBDA = 0.5  # weight of the wrong predictions, the paper's and RAT's


def fit_relu(
    fit_data: FitData, *, lmbda: UnitInterval = LAMBDA, temperature: PositiveNumber = 1.0
) -> dict[str, Tensor]:
    """RelU's matrix from right and wrong predictions of the validation split.

    Args:
        fit_data: its validation images are used.
        lmbda: weight of the wrong predictions, in [0, 1].
        temperature: T of the softmax, in fitting and scoring.

    Returns:
        `matrix` (C, C).
    """
    logits, labels = fit_data.validation.logits, fit_data.validation.known_labels
    return {"matrix": relu_matrix(co_occurrences(logits, labels, temperature), lmbda)}


def relu(
    predictions: Predictions, tensors: dict[str, Tensor], *, temperature: PositiveNumber = 1.0
) -> Tensor:
    """RelU, relative uncertainty: -pᵀ A p, where A says which classes appear together in mistakes.

    Source: Dadalto et al., "A data-driven measure of relative uncertainty for misclassification detection",
    ICLR 2024 (arXiv 2306.01710).
    """
    return minus_uncertainty(predictions.logits, tensors["matrix"], temperature)


def relu_perturbed(
    model: nn.Module,
    images: Tensor,
    tensors: Tensors,
    *,
    temperature: RatTemperature = 1.0,
    epsilon: UnitInterval = 0.00035,
    step: InputStep = "down",
) -> Tensor:
    """RelU after a small step of the input along its own gradient; its matrix is that of clean images.

    RAT's code takes the logarithm of the score, which is negative, so that it has no figures for this one.

    Args:
        model: from images to logits.
        images: (N, 3, H, W).
        tensors: of the pass of `ROWS`.
        temperature: T, of the matrix, the step and the score.
        epsilon: size of the step, in pixel units and not clipped to [0, 1]; the default is from the middle of
            RAT's grid.
        step: as in `odin`; "down" as RAT's protocol.

    Source: Dadalto et al., ICLR 2024 (arXiv 2306.01710), with the step of RAT_MisD's `NoisePerturb`.
    """
    matrix = tensors["matrices"][TEMPERATURES.index(temperature)]
    score = partial(minus_uncertainty, matrix=matrix, temperature=temperature)
    return score(forward(model, stepped(model, images, score, epsilon, step)))


def minus_uncertainty(logits: Tensor, matrix: Tensor, temperature: float) -> Tensor:
    """-pᵀ A p (N,) of logits (N, C) and a matrix A (C, C)."""
    probs = torch.softmax(logits / temperature, dim=1)
    return -((probs @ matrix.to(probs)) * probs).sum(dim=1)


def co_occurrences(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Sums (2, C, C) of p pᵀ over the right predictions and over the wrong ones."""
    sums = logits.new_zeros(2, logits.shape[1], logits.shape[1])
    for rows, targets in row_chunks(logits, labels):
        wrong = rows.argmax(dim=1) != targets
        for place, chosen in enumerate((~wrong, wrong)):
            probs = torch.softmax(rows[chosen] / temperature, dim=1)
            sums[place].addmm_(probs.T, probs)
    return sums


def relu_matrix(sums: Tensor, lmbda: float = LAMBDA) -> Tensor:
    """A = max(lmbda mean_wrong[p pᵀ] - (1 - lmbda) mean_right[p pᵀ], 0) (C, C), over its Frobenius norm.

    A is zero on the diagonal. Without a positive entry A is 1 off the diagonal before the division.

    Args:
        sums: of `co_occurrences`, (2, C, C).
        lmbda: weight of the wrong predictions, in [0, 1].
    """
    # Probabilities add up to 1, so that the entries of a sum add up to how many they are of.
    right, wrong = sums / sums.sum(dim=(1, 2), keepdim=True).round().clamp_min(1)
    matrix = (lmbda * wrong - (1 - lmbda) * right).clamp_min(0).fill_diagonal_(0)
    if not matrix.any():
        matrix = torch.ones_like(matrix).fill_diagonal_(0)
    return matrix / matrix.norm()


def logits_of_batch(model: nn.Module, images: Tensor, labels: Tensor, fitted: Tensors) -> Tensors:
    """Logits and labels of held-out images."""
    return {"logits": forward(model, images), "labels": labels}


def add_co_occurrences(state: Tensors, part: Tensors) -> None:
    """Add those of a batch, at every temperature, to `sums` (T, 2, C, C)."""
    logits, labels = part["logits"], part["labels"]
    if not state:
        state["sums"] = logits.new_zeros(len(TEMPERATURES), 2, logits.shape[1], logits.shape[1])
    for sums, temperature in zip(state["sums"], TEMPERATURES, strict=True):
        sums += co_occurrences(logits, labels, temperature)


def close_matrices(state: Tensors) -> Tensors:
    """`matrices` (T, C, C), of every temperature."""
    return {"matrices": torch.stack([relu_matrix(sums) for sums in state["sums"]])}


ROWS = (
    Score("relu", relu, fit_relu, "features", rat_search=RAT_TEMPERATURES),
    Score(
        "relu_perturbed",
        relu_perturbed,
        inputs="images",
        passes=(ImagePass(logits_of_batch, add_co_occurrences, close_matrices, rows="held_out"),),
        rat_search=RAT_TEMPERATURES | RAT_STEPS,
    ),
)
