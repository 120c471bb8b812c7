"""Images/s of the full-width CIFAR-100 SURE+ step, beside an unoptimised fp32 step of the same mathematics.

    python benchmarks/train_step.py [--batch 128] [--rounds 5] [--width 64]

Both make the same three views (crop and flip, RegMixup, PixMix), back-propagate the three terms at w
and at w + e (F-SAM), step SGD and update the EMA. rtk's is `rtk.train.worker.train_step` on a DeepSpeed
ZeRO-1 engine with bf16 autocast and channels_last; the other is plain torch. They take turns, so that
a machine whose speed drifts is fair to both. Random pictures: the speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import time

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.fractals import render_fractals
from rtk.data.views import ImageArrays, View, ViewMaker
from rtk.models import build_model
from rtk.objectives import active_terms
from rtk.train.job import TrainingJob
from rtk.train.worker import build_state, train_step

CLASSES, ROWS, SIDE = 100, 2048, 32
NAMES = {"clean", "mixed", "pixmix"}


def sure_plus_config(batch: int, width: int) -> RunConfig:
    """The recipe's settings, without its data paths."""
    return build_config(
        {
            "data": {"train": "random pictures"},
            "model": {"width": width},
            "objective": {"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
            "sharpness": {"variant": "fsam", "rho": 0.2, "lmbda": 0.8},
            "averaging": {"kind": "ema"},
            "train": {"batch_size": batch},
        }
    )


def make_views(config: RunConfig) -> ViewMaker:
    """Views of random pictures."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, 3, SIDE, SIDE), dtype=np.uint8)
    train = ImageArrays(images, generator.integers(0, CLASSES, ROWS), np.arange(ROWS))
    pictures = render_fractals(64, 36, 0)
    return ViewMaker(train, pictures, CLASSES, config.data, config.objective, seed=0)


class PlainStep:
    """SURE+ as one would write it down: fp32, NCHW, loops over parameters."""

    def __init__(self, config: RunConfig) -> None:
        self.model = build_model(config.model, CLASSES).train()
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        self.gradient_average: list[torch.Tensor] | None = None
        self.updates = 0

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        self._gradients(views)
        gradients = [parameter.grad.clone() for parameter in self.model.parameters()]
        directions = gradients
        if self.gradient_average is None:
            self.gradient_average = gradients
        else:
            directions = [g - m for g, m in zip(gradients, self.gradient_average, strict=True)]
            pairs = zip(gradients, self.gradient_average, strict=True)
            self.gradient_average = [0.8 * m + 0.2 * g for g, m in pairs]
        norm = torch.cat([d.flatten() for d in directions]).norm()
        steps = [0.2 * d / (norm + 1e-12) for d in directions]
        with torch.no_grad():
            for parameter, step in zip(self.model.parameters(), steps, strict=True):
                parameter.add_(step)
        self._gradients(views)
        with torch.no_grad():
            for parameter, step in zip(self.model.parameters(), steps, strict=True):
                parameter.sub_(step)
        self.optimizer.step()
        self._update_average()

    def _gradients(self, views: dict[str, View]) -> None:
        self.optimizer.zero_grad()
        for view in views.values():
            cross_entropy(self.model(view.images), view.targets).backward()

    def _update_average(self) -> None:
        self.updates += 1
        decay = 0.9998 * (1 - math.exp(-self.updates / 2000))
        live = self.model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value.mul_(decay).add_(live[name], alpha=1 - decay)


class RtkStep:
    """The step that `rtk train` runs, on one rank."""

    def __init__(self, config: RunConfig) -> None:
        tree = config.model_dump(mode="json")
        self.state = build_state(TrainingJob("", tree, CLASSES, ROWS, resume=False), torch.device("cpu"))
        self.state.engine.module.train()
        self.terms = active_terms(config.objective)
        self.step = 0

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        train_step(self.state, views, self.terms, self.step)
        self.step += 1


def time_step(step: PlainStep | RtkStep, maker: ViewMaker, batch: int, number: int) -> float:
    """Seconds of one update, views included."""
    rows = (np.arange(batch) + number * batch) % ROWS
    started = time.perf_counter()
    step(maker(rows, epoch=number, names=NAMES))
    return time.perf_counter() - started


def main() -> None:
    """Print images/s of both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
    torch.distributed.init_process_group("gloo")
    config = sure_plus_config(options.batch, options.width)
    maker = make_views(config)
    steps = {"plain fp32 NCHW": PlainStep(config), "rtk": RtkStep(config)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(options.rounds + 1):  # the first round warms up
        for name, step in steps.items():
            seconds[name].append(time_step(step, maker, options.batch, number))
    rates = {name: options.batch / statistics.median(values[1:]) for name, values in seconds.items()}
    views = statistics.median(time_views(maker, options.batch, number) for number in range(options.rounds))
    shape = f"batch {options.batch}, width {options.width}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {shape}")
    for name, rate in rates.items():
        print(f"{name:<16} {rate:7.1f} images/s")
    print(f"ratio            {rates['rtk'] / rates['plain fp32 NCHW']:7.2f}")
    print(f"views alone      {options.batch / views:7.0f} images/s")
    torch.distributed.destroy_process_group()


def time_views(maker: ViewMaker, batch: int, number: int) -> float:
    """Seconds to make the three views of a batch."""
    started = time.perf_counter()
    maker(np.arange(batch), epoch=number, names=NAMES)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
