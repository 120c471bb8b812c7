"""SURE+ as one would write it down, for benchmarks: fp32, view by view, loops over parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

RHO, LMBDA = 0.2, 0.8


class PlainStep:
    """RegMixup and RegPixMix of weight 1, F-SAM (rho 0.2, sigma 1, lambda 0.8), EMA 0.9998 with the ramp.

    Args:
        model: images to logits, in training mode.
        optimizer: over its parameters.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.average = copy.deepcopy(model)
        self.gradient_average: list[torch.Tensor] | None = None
        self.updates = 0

    def __call__(self, views: Mapping[str, Any]) -> None:
        """One update; views have `images` and `targets`."""
        self._gradients(views)
        gradients = [parameter.grad.clone() for parameter in self.model.parameters()]
        directions = gradients
        if self.gradient_average is None:
            self.gradient_average = gradients
        else:
            directions = [g - m for g, m in zip(gradients, self.gradient_average, strict=True)]
            pairs = zip(gradients, self.gradient_average, strict=True)
            self.gradient_average = [LMBDA * m + (1 - LMBDA) * g for g, m in pairs]
        norm = torch.cat([d.flatten() for d in directions]).norm()
        steps = [RHO * d / (norm + 1e-12) for d in directions]
        with torch.no_grad():
            for parameter, step in zip(self.model.parameters(), steps, strict=True):
                parameter.add_(step)
        self._gradients(views)
        with torch.no_grad():
            for parameter, step in zip(self.model.parameters(), steps, strict=True):
                parameter.sub_(step)
        self.optimizer.step()
        self._update_average()

    def _gradients(self, views: Mapping[str, Any]) -> None:
        self.optimizer.zero_grad()
        for number, view in enumerate(views.values(), 1):
            # Gradients are averaged over the ranks once, with the last view.
            apart = number < len(views) and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if apart else nullcontext():  # type: ignore[operator]
                cross_entropy(self.model(view.images), view.targets).backward()

    def _update_average(self) -> None:
        self.updates += 1
        decay = 0.9998 * (1 - math.exp(-self.updates / 2000))
        live = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.mul_(decay).add_(live[name], alpha=1 - decay)
