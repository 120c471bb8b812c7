"""Classifiers on top of features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class CosineHead(nn.Module):
    """Logits = temperature * cosine of feature and class weight (SURE, Li et al. 2024, section 3.3).

    The published layer also has a bias that it never uses; there is none here.
    """

    def __init__(self, features: int, classes: int, temperature: float = 8.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, D) -> logits (N, C) in [-temperature, temperature]."""
        return self.temperature * linear(normalize(features, dim=1), normalize(self.weight, dim=1))
