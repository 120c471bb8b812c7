"""A small model under SharpnessAware around each of torch's optimisers."""

import io
from functools import partial

import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedules

from rtk.optim import EfficientSam, LookSam, SharpnessAware

RHO, SIGMA, LMBDA, STEPS = 0.3, 0.7, 0.8, 4

BASES = {
    "sgd": partial(optim.SGD, lr=0.1),
    "nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(optim.Adam, lr=0.02),
    "amsgrad": partial(optim.Adam, lr=0.02, amsgrad=True),
    "adamw": partial(optim.AdamW, lr=0.02, weight_decay=0.1),
    "nadam": partial(optim.NAdam, lr=0.02),
    "radam": partial(optim.RAdam, lr=0.02),
    "adamax": partial(optim.Adamax, lr=0.02),
    "rmsprop": partial(optim.RMSprop, lr=0.01, momentum=0.5),
    "adagrad": partial(optim.Adagrad, lr=0.05),
    "adadelta": partial(optim.Adadelta, lr=0.5),
    "asgd": partial(optim.ASGD, lr=0.05),
    "adafactor": partial(optim.Adafactor, lr=0.05),
    "rprop": partial(optim.Rprop, lr=0.01),
}

VARIANTS = ("sam", "asam", "fsam")


def network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return net


def groups(net):
    """Two, so that their order and their settings count."""
    return [{"params": net[0].parameters()}, {"params": net[1].parameters(), "lr": 0.03}]


def loss_of(net, step):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return net(x.to(net[0].weight.dtype)).double().square().mean()


def closure_of(net, step):
    def closure():
        loss = loss_of(net, step)
        loss.backward()
        return loss

    return closure


def advance(scheduler):
    scheduler.step(*[1.0] * isinstance(scheduler, schedules.ReduceLROnPlateau))


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def sharp(net, base, variant, **options):
    if variant == "looksam":
        return LookSam(BASES[base](groups(net)), rho=RHO, every=2)
    if variant == "esam":
        return EfficientSam(BASES[base](groups(net)), rho=RHO)
    options = {"rho": RHO, "sigma": SIGMA, "lmbda": LMBDA, **options}
    return SharpnessAware(BASES[base](groups(net)), variant, **options)


def train(net, optimizer, steps=range(STEPS), scheduler=None):
    for step in steps:
        optimizer.step(closure_of(net, step))
        if scheduler is not None:
            advance(scheduler)


def saved(state):
    """As a checkpoint on disk gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=True)
