"""The base optimiser."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rtk.config.schema import OptimizerConfig


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The torch optimiser that a config describes, over the parameters that take gradients."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.name == "adamw":
        return AdamW(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    return SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )
