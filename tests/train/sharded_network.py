"""The small network of all cases, its optimiser, the rate and batch of every step, and its whole weights."""

from __future__ import annotations

import torch
from torch import nn

from tests.train.sharded_cases import BATCH, STEPS, Case


class Net(nn.Module):
    """Odd sizes, so that shards end inside parameters and need padding."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [nn.Linear(6, 11), nn.Tanh(), nn.Linear(11, 7), nn.Tanh(), nn.Linear(7, 3)]
        self.layers = nn.Sequential(nn.Flatten(), *sizes)
        self.layers[3].requires_grad_(not case.frozen)
        self.bf16 = case.reduced

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            logits = self.layers(x)
        return logits.float() if self.bf16 else logits


def build_base(name: str, net: nn.Module) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-3, weight_decay=0.05)


def rate(case: Case, step: int) -> float:
    """A learning rate that falls, as under a schedule."""
    return (0.1 if case.base == "sgd" else 3e-3) * (1 - step / (2 * STEPS))


def batches(seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(BATCH, 1, 2, 3, generator=generator), torch.randint(3, (BATCH,), generator=generator))
        for _ in range(STEPS)
    ]


def samples(step: int) -> torch.Tensor:
    """Ids (BATCH,) of a batch: two steps go through all samples."""
    generator = torch.Generator().manual_seed(step // 2)
    return torch.randperm(2 * BATCH, generator=generator).chunk(2)[step % 2]


def model_weights(net: nn.Module) -> torch.Tensor:
    """What the model computes with: its gathered parameters, flat."""
    import deepspeed

    parameters = list(net.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=hasattr(parameters[0], "ds_id")):
        return torch.cat([p.detach().flatten().to(p.dtype, copy=True) for p in parameters])
