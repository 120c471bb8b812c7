"""What a step costs beside its arithmetic: SURE+ on a network with next to none, by rtk and written plainly.

    python benchmarks/host_time.py [--ranks 1] [--rounds 30] [--steps 10] [--zero 0 1] [--profile]

ResNet-18 of width 1 on two images of 8 x 8 pixels a rank, three views, F-SAM, EMA, in fp32, on one thread.
The sides take turns in one process, or in each of two, so many steps at a time. With two, the plain step is
in DistributedDataParallel, and BatchNorm is each rank's own on both sides: torch has no other on a CPU.
`--profile` prints where rtk's steps spend most.
The last line is the time of rtk's step over that of the plain one.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import statistics
import time
from collections.abc import Callable

import torch
from plain_step import PlainStep
from torch import nn
from train_step import CLASSES, NAMES, ROWS, sure_plus_config

from rtk.config.load import override_config
from rtk.data.views.maker import View
from rtk.models import build_model
from rtk.runtime.ranks import world_size
from rtk.train.engine import set_learning_rate
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step
from rtk.train.worker import rate_at

BATCH, WIDTH, SIDE = 2, 1, 8


def views() -> dict[str, View]:
    """A batch of random pictures, seen three times."""
    targets = torch.nn.functional.one_hot(torch.arange(BATCH), CLASSES).float()
    return {name: View(torch.rand(BATCH, 3, SIDE, SIDE), targets) for name in sorted(NAMES)}


def rtk_step(zero_stage: int) -> Callable[[], None]:
    """rtk's step, with what surrounds it in the worker's loop."""
    ranks = world_size()
    changes = {"train.zero_stage": zero_stage, "train.precision": "fp32", "train.workers": ranks}
    changes["model.batchnorm"] = "local"
    config = override_config(sure_plus_config(ranks * BATCH, WIDTH), changes)
    job = TrainingJob("", config.model_dump(mode="json"), CLASSES, ROWS, resume=False)
    state = build_state(job, torch.device("cpu"))
    state.engine.module.train()
    batch, number = views(), 0

    def step() -> None:
        nonlocal number
        set_learning_rate(state.engine, rate_at(config, number, job))
        train_step(state, batch, number)
        number += 1

    return step


def plain_step() -> Callable[[], None]:
    """The same step, written down plainly."""
    model: nn.Module = build_model(sure_plus_config(BATCH, WIDTH).model, CLASSES).train()
    if world_size() > 1:
        model = nn.parallel.DistributedDataParallel(model)
    step = PlainStep(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4))
    batch = views()
    return lambda: step(batch)


def milliseconds(step: Callable[[], None], steps: int) -> float:
    """Of one step, over so many."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    return 1000 * (time.perf_counter() - started) / steps


def measure(sides: dict[str, Callable[[], None]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Milliseconds of every round of all sides; the first warms up and is left out."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, step in sides.items():
            found = milliseconds(step, steps)
            if number:
                taken[name].append(found)
    return taken


def profile(step: Callable[[], None], steps: int) -> None:
    """Print where a step's time goes, by function."""
    profiler = cProfile.Profile()
    profiler.runcall(milliseconds, step, steps)
    pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


def on_rank(rank: int, options: argparse.Namespace) -> None:
    """Measure in this process; rank 0 prints milliseconds a step and ratios."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(options.ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29534")
    torch.distributed.init_process_group("gloo")
    sides = {f"rtk, ZeRO-{stage}": rtk_step(stage) for stage in options.zero}
    taken = measure({"plain": plain_step(), **sides}, options.rounds, options.steps)
    if rank:
        return
    ratios = {}
    for name, values in taken.items():
        ratios[name] = statistics.median(map(float.__truediv__, values, taken["plain"]))
        print(f"{name:14} {statistics.median(values):7.2f} ms a step   ratio {ratios[name]:.2f}")
    if options.profile:
        profile(next(iter(sides.values())), options.steps * 10)
    print(f"ratio {max(ratios.values()):.2f}")


def main() -> None:
    """Measure on one rank or several."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--zero", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.multiprocessing.spawn(on_rank, (options,), nprocs=options.ranks)


if __name__ == "__main__":
    main()
