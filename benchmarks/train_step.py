"""Images/s of the full-width CIFAR-100 SURE+ step, beside an unoptimised fp32 step of the same mathematics.

    python benchmarks/train_step.py [--batch 128] [--rounds 5] [--width 64]

Both make the same three views (crop and flip, RegMixup, PixMix), back-propagate the three terms at w
and at w + e (F-SAM), step SGD and update the EMA. rtk's is `rtk.train.step.train_step` on a DeepSpeed
ZeRO-1 engine with bf16 autocast and channels_last, set up as in a worker; the other is plain torch. Each has
a process of its own and they take turns, so that a machine whose speed drifts is fair to both. Random
pictures: the speed does not depend on what they show.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from plain_step import PlainStep

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import View, ViewMaker
from rtk.models import build_model
from rtk.objectives import view_makers
from rtk.runtime.freed_memory import keep_freed_memory
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step

CLASSES, ROWS, SIDE = 100, 2048, 32
NAMES = {"clean", "mixed", "pixmix"}
PLAIN, RTK = "plain fp32 NCHW", "rtk"


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
    return ViewMaker(train, pictures, CLASSES, config.data, view_makers(config.objective), seed=0)


class RtkStep:
    """The step that `rtk train` runs, on one rank."""

    def __init__(self, config: RunConfig) -> None:
        tree = config.model_dump(mode="json")
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29533"
        )
        torch.distributed.init_process_group("gloo")
        keep_freed_memory()
        self.state = build_state(TrainingJob("", tree, CLASSES, ROWS, resume=False), torch.device("cpu"))
        self.state.engine.module.train()
        self.step = 0

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        train_step(self.state, views, self.step)
        self.step += 1


def plain_step(config: RunConfig) -> PlainStep:
    """The same settings, written down plainly."""
    model = build_model(config.model, CLASSES).train()
    return PlainStep(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4))


def serve(name: str, batch: int, width: int, turns: Connection) -> None:
    """Process of one side: for every number that comes in, make one update and send its seconds back."""
    config = sure_plus_config(batch, width)
    step: PlainStep | RtkStep = plain_step(config) if name == PLAIN else RtkStep(config)
    maker = make_views(config)
    for number in iter(turns.recv, None):
        rows = (np.arange(batch) + number * batch) % ROWS
        started = time.perf_counter()
        step(maker(rows, epoch=number, names=NAMES))
        turns.send(time.perf_counter() - started)


def measure(batch: int, width: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every update of both sides; the first round warms up and is left out."""
    context = multiprocessing.get_context("spawn")
    sides = {}
    for name in (PLAIN, RTK):
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(name, batch, width, theirs), daemon=True).start()
        sides[name] = ours
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, turns in sides.items():
            turns.send(number)
            seconds[name].append(turns.recv())
    for turns in sides.values():
        turns.send(None)
    return {name: values[1:] for name, values in seconds.items()}


def step_options(description: str | None) -> argparse.Namespace:
    """What a benchmark of the step takes: batch, rounds, width."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=64)
    return parser.parse_args()


def main() -> None:
    """Print images/s of both and their ratio."""
    options = step_options(__doc__)
    seconds = measure(options.batch, options.width, options.rounds)
    shape = f"batch {options.batch}, width {options.width}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {shape}")
    for name, values in seconds.items():
        print(f"{name:<16} {options.batch / statistics.median(values):7.1f} images/s")
    ratios = [plain / ours for plain, ours in zip(seconds[PLAIN], seconds[RTK], strict=True)]
    spread = f"of paired rounds: {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"ratio            {statistics.median(ratios):7.2f} ({spread})")


if __name__ == "__main__":
    main()
