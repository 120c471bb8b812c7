"""Classifiers on top of features.

A head says which features and weight rows its logits really are products of, because feature scores
(ViM, ReAct, kNN, ...) must see those and not what comes before a normalisation. Logits have the precision
of the features; weights that are kept in another one are converted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize

if TYPE_CHECKING:
    from rtk.config.ensemble import Average

PROJECTED = 128  # dimensions of a projection, as published


class LinearHead(nn.Linear):
    """Logits = W f + b.

    Args:
        features: D.
        classes: C.
        reject: one row more, the last, for what is none of the classes; it is seen in training mode only.
        standardise: f are the features scaled to mean 0 and this standard deviation; None: as they are.
    """

    def __init__(
        self, features: int, classes: int, reject: bool = False, standardise: float | None = None
    ) -> None:
        super().__init__(features, classes + reject)
        self.classes, self.standardise = classes, standardise

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C), in training mode with the reject class's."""
        rows, features = slice(None if self.training else self.classes), self.used_features(features)
        return linear(features, self.weight[rows].to(features.dtype), self.bias[rows].to(features.dtype))

    def used_features(self, features: Tensor) -> Tensor:
        """The features (N, D) themselves, or standardised."""
        return features if self.standardise is None else standardised(features, self.standardise)

    def used_weights(self) -> tuple[Tensor, Tensor]:
        """Weight rows (C, D) and bias (C,)."""
        return self.weight[: self.classes].detach(), self.bias[: self.classes].detach()


def standardised(features: Tensor, sigma: float) -> Tensor:
    """Features (N, D) of each image at mean 0 and standard deviation sigma (ASCOOD, arXiv 2411.10794).

    sigma * (f - mean) / (s + 1e-6), where s is the deviation with D - 1, as its code has it.
    """
    deviation, mean = torch.std_mean(features, dim=1, keepdim=True)
    return (features - mean) / (deviation + 1e-6) * sigma


class CosineHead(nn.Module):
    """Logits = temperature * cosine of feature and class weight (SURE, Li et al. 2024, section 3.3).

    The published layer also has a bias that it never uses; there is none here. `reject` as of `LinearHead`.
    """

    def __init__(self, features: int, classes: int, temperature: float = 8.0, reject: bool = False) -> None:
        super().__init__()
        self.temperature, self.classes = temperature, classes
        self.weight = nn.Parameter(torch.empty(classes + reject, features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D), of any length, -> logits (N, C) in [-temperature, temperature]."""
        rows = self.weight if self.training else self.weight[: self.classes]
        weight = normalize(rows.to(features.dtype), dim=1)
        return self.temperature * linear(self.used_features(features), weight)

    def used_features(self, features: Tensor) -> Tensor:
        """Features (N, D) scaled to unit length."""
        return normalize(features, dim=1)

    def used_weights(self) -> tuple[Tensor, Tensor]:
        """Unit weight rows (C, D) times the temperature, and a zero bias (C,)."""
        weight = self.temperature * normalize(self.weight[: self.classes].detach(), dim=1)
        return weight, torch.zeros(len(weight), dtype=weight.dtype)


class AbetHead(nn.Module):
    """Logits = cosine of feature and class weight / T, with a T of each image (AbeT, arXiv 2301.12321).

    T = sigmoid(BatchNorm(v . f + b)) + 1e-12. Cosines have 1e-4 added to both lengths, as in the published
    code. Its score, log sum exp of the logits, is `abet` (`rtk.scores.abet`). `reject` as of `LinearHead`.
    """

    def __init__(self, features: int, classes: int, reject: bool = False) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.empty(classes + reject, features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")
        self.temperature = nn.Sequential(nn.Linear(features, 1), nn.BatchNorm1d(1))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D), of any length, -> logits (N, C)."""
        rows = self.weight if self.training else self.weight[: self.classes]
        return linear(self.used_features(features), _unit(rows.to(features.dtype)))

    def used_features(self, features: Tensor) -> Tensor:
        """Features (N, D) of unit length over T. In training BatchNorm's statistics move."""
        return _unit(features) / (self.temperature(features).sigmoid() + 1e-12)

    def used_weights(self) -> tuple[Tensor, Tensor]:
        """Unit weight rows (C, D), and a zero bias (C,)."""
        weight = _unit(self.weight[: self.classes].detach())
        return weight, torch.zeros(len(weight), dtype=weight.dtype)


class ProjectionHead(LinearHead):
    """A linear classifier, beside a projection that trains the features in its place (PALM, SupCon).

    In training the output is the projection's unit vectors (N, `PROJECTED`), and behind them the logits of
    features that receive no gradient from these: the classifier is fitted to features that others shape.
    Everything else sees a linear head.
    """

    def __init__(self, features: int, classes: int, reject: bool = False) -> None:
        super().__init__(features, classes, reject)
        hidden, out = nn.Linear(features, features), nn.Linear(features, PROJECTED)
        self.projection = nn.Sequential(hidden, nn.ReLU(), out)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C), in training (N, `PROJECTED` + C)."""
        if not self.training:
            return super().forward(features)
        projected = normalize(self.projection(features), dim=1)
        return torch.cat([projected, super().forward(features.detach())], dim=1)


def _unit(rows: Tensor) -> Tensor:
    return rows / (rows.norm(dim=1, keepdim=True) + 1e-4)


SingleHead = LinearHead | CosineHead | AbetHead  # a ProjectionHead is a linear one


class EnsembleHead(nn.Module):
    """The heads of several networks on their features side by side; one average of what they say.

    The mean of the logits is a linear layer of these features, and its weights are what feature scores see,
    whatever is averaged.

    Args:
        heads: of the members.
        widths: number of features of each.
        average: see `combine_logits`.
    """

    def __init__(self, heads: Sequence[SingleHead], widths: Sequence[int], average: Average) -> None:
        super().__init__()
        self.members, self.widths, self.average = nn.ModuleList(heads), tuple(widths), average

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D), D the sum of the members', -> logits (N, C)."""
        parts = features.split(self.widths, dim=1)
        each = [head(part) for head, part in zip(self.members, parts, strict=True)]
        return combine_logits(torch.stack(each), self.average)

    def used_features(self, features: Tensor) -> Tensor:
        """The features (N, D) as the members' heads multiply them."""
        parts = zip(self._heads(), features.split(self.widths, dim=1), strict=True)
        return torch.cat([head.used_features(part) for head, part in parts], dim=1)

    def used_weights(self) -> tuple[Tensor, Tensor]:
        """Weight rows (C, D) and bias (C,) of the mean of the members' logits."""
        weights, biases = zip(*self.member_weights(), strict=True)
        return torch.cat(weights, dim=1) / len(weights), torch.stack(biases).mean(dim=0)

    def member_weights(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Weight rows (C, D_m) and bias (C,) of each member."""
        return tuple(head.used_weights() for head in self._heads())

    def _heads(self) -> list[SingleHead]:
        return list(self.members)  # type: ignore[arg-type]


def combine_logits(logits: Tensor, average: Average) -> Tensor:
    """Logits (N, C) of an ensemble from those of its M members, (M, N, C).

    - "softmax": log mean_m softmax(z_m), the mixture of deep ensembles (Lakshminarayanan et al., NeurIPS
      2017, arXiv 1612.01474), plus the mean of the members' energies log sum_c exp(z_mc). That is the same
      for all classes of an image, so that no probability changes, and keeps scores that read the logits'
      size (energy, the largest logit) from being those of logarithms of probabilities.
    - "logits": their mean.
    """
    if average == "logits":
        return logits.mean(dim=0)
    energies = logits.logsumexp(dim=2, keepdim=True).mean(dim=0)
    return log_softmax(logits, dim=2).logsumexp(dim=0) - math.log(len(logits)) + energies


Head = SingleHead | EnsembleHead
