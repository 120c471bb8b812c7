"""A score of your own: the cosine between an image's features and the mean of its predicted class.

In a recipe: `plugins: [my_score.py]`. For a run that is trained already:
`rtk evaluate RUN --plugin my_score.py --scores msp class_cosine`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import rtk.scores
from rtk.scores import FitData, Predictions, Score
from rtk.scores.hyperparameters import PositiveNumber


def fit(fit_data: FitData) -> dict[str, Tensor]:
    """`means` (C, D) of the training features of each class. What is returned is saved with the score."""
    train = fit_data.train
    means = torch.zeros(train.width, dtype=torch.float64)
    means.index_add_(0, train.labels, train.features.double())
    counts = train.labels.bincount(minlength=len(means)).clamp_min(1)
    return {"means": means / counts.unsqueeze(1)}


# Keyword-only parameters are hyper-parameters; the annotation says which values are allowed.
def class_cosine(
    predictions: Predictions, tensors: dict[str, Tensor], *, power: PositiveNumber = 1.0
) -> Tensor:
    """Cosine, (N,), its sign kept and its size raised to a power; larger = more trustworthy.

    Source: an example; the paper that a score comes from stands here.
    """
    means = tensors["means"].to(predictions.features)
    cosine = cosine_similarity(predictions.features, means[predictions.logits.argmax(dim=1)])
    return cosine.sign() * cosine.abs() ** power


# `search`: values that `rtk evaluate --protocol aps` tries.
rtk.scores.register(
    Score("class_cosine", class_cosine, fit=fit, inputs="features", search={"power": (0.5, 1, 2)})
)
