"""The base optimiser."""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from rtk.models.layers import learning_rate_scales

if TYPE_CHECKING:
    from rtk.config.training import OptimizerConfig


def uncompiled(kind: type[Optimizer]) -> Any:
    """A torch optimiser of the same name and mathematics that does not load torch's compiler, a second.

    torch's own load it to be left alone by it: in `step`, and in the methods that all of them have.
    """
    for method in vars(Optimizer).values():
        original = getattr(method, "__wrapped__", None)
        if original is not None and not hasattr(original, "__dynamo_disable"):
            original.__dynamo_disable = original
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), {"step": step, "__module__": kind.__module__})


def build_optimizer(config: OptimizerConfig, model: nn.Module) -> Optimizer:
    """The torch optimiser that a config describes, over the parameters that take gradients.

    Every parameter group has a `scale`, its factor on the scheduled learning rate (layer-wise
    decay, or that of the head).
    """
    groups = parameter_groups(model, config.lr, config.layer_decay, config.head_scale)
    if config.name == "adamw":
        return uncompiled(AdamW)(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    return uncompiled(SGD)(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def parameter_groups(
    model: nn.Module, lr: float, layer_decay: float = 1.0, head_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Trained parameters by their factor on the learning rate, one group where all have the same."""
    parameters, groups = dict(model.named_parameters()), defaultdict(list)
    for name, scale in learning_rate_scales(model, layer_decay, head_scale).items():
        groups[scale].append(parameters[name])
    return [{"params": members, "lr": lr * scale, "scale": scale} for scale, members in groups.items()]
