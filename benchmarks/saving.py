"""How long training waits for a checkpoint that is written in the foreground and in the background.

    python benchmarks/saving.py [--millions 22] [--seconds 60] [--every 15] [--folder DIR]

One process, a model of so many million weights with AdamW in fp32: three numbers a weight are saved. A step
here is a product of matrices; it runs for so many seconds without saves, with saves in the foreground and in
the background, in turns, so that a machine whose speed drifts is fair to all.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from types import SimpleNamespace

import torch
from torch import nn

from rtk.config import load_config
from rtk.runs.folder import RunFolder
from rtk.train.job import TrainingJob
from rtk.train.saver import Saver
from rtk.train.state import TrainState
from rtk.train.zero_shards import ReplicatedShards

WIDTH = 1024
STALL, TOTAL = "system/checkpoint_stall_seconds", "system/checkpoint_seconds"


def big_state(millions: float) -> TrainState:
    """Layers of a million weights, and AdamW's moments of all of them."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(round(millions))))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        moments = {"exp_avg": torch.randn_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
        optimizer.state[parameter] = {"step": torch.tensor(1.0), **moments}
    engine = SimpleNamespace(module=model, optimizer=optimizer, zero_optimization_stage=lambda: 0)
    return TrainState(engine, ReplicatedShards(engine), {}, [], [])


def new_job(folder: str, background: bool) -> TrainingJob:
    """A run whose checkpoints are saved in one way or the other."""
    config = load_config("digits_ce", [f"output={folder}", f"train.background_saves={background}"])
    run = RunFolder.create(config)
    return TrainingJob(str(run.path), run.config_tree(), 8, 10**6, False)


def train(seconds: float, every: float, state: TrainState, saver: Saver | None) -> tuple[int, float]:
    """Steps, and the seconds that they and the saves between them took; the last save is waited for."""
    inputs = torch.randn(WIDTH, WIDTH)
    steps, saved, started = 0, time.monotonic(), time.monotonic()
    while time.monotonic() - started < seconds:
        for _ in range(4):
            inputs @ inputs
        steps += 1
        if saver is not None and time.monotonic() - saved >= every:
            saved = time.monotonic()
            saver.save(state, steps, None, is_final=False)
    took = time.monotonic() - started
    if saver is not None:
        saver.wait()
    return steps, took


def measure(millions: float, seconds: float, every: float, folder: str) -> None:
    """Print a table of one size of model."""
    state = big_state(millions)
    ways = {"no saves": None, "foreground": new_job(folder, False), "background": new_job(folder, True)}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, job in ways.items():
            if job is None:
                steps, took = train(seconds, every, state, None)
            else:
                with Saver(job) as saver:
                    steps, took = train(seconds, every, state, saver)
            speeds[name].append(steps / took)
    print(
        f"\n| {millions:g} M weights, a save every {every:g} s | save s | training waits s | steps/s | lost |"
    )
    print("|---|---|---|---|---|")
    base = statistics.median(speeds["no saves"])
    for name, job in ways.items():
        speed = statistics.median(speeds[name])
        cells = [f"{typical(job, key):.2f}" if job else "" for key in (TOTAL, STALL)]
        print(f"| {name} | {' | '.join(cells)} | {speed:.2f} | {1 - speed / base:.1%} |")
    print(f"ratio {typical(ways['background'], STALL) / typical(ways['foreground'], STALL):.3f}")


def typical(job: TrainingJob, key: str) -> float:
    """Median of a metric over all saves of a run but the first, which takes its memory."""
    values = [row["value"] for row in job.run.read_metrics() if row["key"] == key]
    return statistics.median(values[1:])


def main() -> None:
    """Measure every size that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, nargs="+", default=[22.0], help="of weights")
    parser.add_argument("--seconds", type=float, default=60.0, help="of every part")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between saves")
    parser.add_argument("--folder", help="where to save (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for millions in options.millions:
            measure(millions, options.seconds, options.every, folder)


if __name__ == "__main__":
    main()
