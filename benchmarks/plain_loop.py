"""Images/s of `rtk train` beside the loop that one would write by hand (`loop_by_hand.py`).

    RTK_DATA=DIR python benchmarks/plain_loop.py [--epochs 3] [--rounds 1]
    RTK_DATA=DIR python benchmarks/plain_loop.py --networks resnet18 vit_s16 --methods ce --workers 1 2

The same network, images, batch, precision, crops and flips on both sides, a process each for one worker and
two for two, in turns; with two, BatchNorm is each one's own, for torch has no other on a CPU (rtk's default
is over all). rtk is the command, with its workers, checkpoints and metrics; its figure is that of
`metrics.csv`, from the second epoch on, as is that of the loop. `RTK_DATA` is a folder with
cifar100/train_10k.parquet and flowers5/train.parquet. The last line is rtk's speed over that of the loop,
where it is least.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from loop_by_hand import Case, train

from rtk.config.model import ModelConfig
from rtk.runtime.environment import supports_bf16

CIFAR, FLOWERS, BF16 = "cifar100/train_10k", "flowers5/train", supports_bf16("cpu")
CASES = {
    "resnet18": Case(ModelConfig(name="resnet18", width=16), CIFAR, 32, 4, 128, 4096, BF16),
    "resnet18_w64": Case(ModelConfig(name="resnet18", width=64), CIFAR, 32, 4, 128, 1024, BF16),
    # Depthwise convolutions are slower in bf16 on a CPU.
    "efficientnet_lite0": Case(ModelConfig(name="efficientnet_lite0"), FLOWERS, 96, 12, 32, 2048, False),
    "vit_s16": Case(
        ModelConfig(name="timm/vit_small_patch16_224"), FLOWERS, 96, 12, 32, 512, BF16, adamw=True
    ),
}
HELD_OUT = 0.02  # of the images, to validate on


def by_command(case: Case, folder: str, method: str, epochs: int, workers: int) -> float:
    """Images/s of `rtk train`, from the second epoch on."""
    with tempfile.TemporaryDirectory() as output:
        rows = round(case.rows / (1 - HELD_OUT))
        overrides = [f"data.train={folder}/{case.file}.parquet", f"data.train_rows={rows}", "data.test=null"]
        overrides += ["data.validation_ood=null", f"data.validation_fraction={HELD_OUT}", f"output={output}"]
        overrides += [f"data.image_size={case.side}", f"data.augment.crop_padding={case.padding}"]
        overrides += [f"model.name={case.model.name}", f"model.width={json.dumps(case.model.width)}"]
        overrides += [f"train.batch_size={case.batch}", f"train.duration={epochs}ep"]
        overrides += ["model.batchnorm=local"] if workers > 1 else []
        overrides += [f"train.workers={workers}", f"train.precision={'bf16' if case.bf16 else 'fp32'}"]
        overrides += ["optimizer.name=adamw", "optimizer.lr=0.0001"] if case.adamw else []
        overrides += ["data.mixing=null", "sharpness.rho=0.05"] if method == "sure_plus" else []
        command = [sys.executable, "-m", "rtk.cli", "train", f"resnet18_cifar100_{method}", *overrides]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        if done.returncode:
            raise SystemExit(done.stderr)
        (metrics,) = Path(output).glob("*/metrics.csv")
        with metrics.open(encoding="utf-8") as opened:
            found = [row for row in csv.DictReader(opened) if row["key"] == "train/images_per_second"]
        return statistics.harmonic_mean([float(row["value"]) for row in found if float(row["epoch"]) > 1])


def by_hand(name: str, method: str, options: argparse.Namespace, ranks: int) -> float:
    """Images/s of the loop, in processes of its own, as rtk's workers are."""
    processes = []
    for rank in range(ranks):
        place = json.dumps([name, method, options.epochs, rank, ranks])
        command = [sys.executable, __file__, "--loop", place]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8"))
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("the loop by hand failed")
    return float(said[0])


def folder_of_data() -> str:
    """`RTK_DATA`."""
    return os.environ["RTK_DATA"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=("ce", "sure_plus"), default=["ce", "sure_plus"])
    parser.add_argument("--workers", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loop", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(name: str, method: str, workers: int, options: argparse.Namespace) -> float:
    """Print a row of the table; rtk's speed over the loop's."""
    speeds: dict[str, list[float]] = {"hand": [], "rtk": []}
    for _ in range(options.rounds):
        speeds["hand"].append(by_hand(name, method, options, workers))
        speeds["rtk"].append(by_command(CASES[name], folder_of_data(), method, options.epochs, workers))
    ratios = [ours / theirs for ours, theirs in zip(speeds["rtk"], speeds["hand"], strict=True)]
    hand, rtk = (statistics.median(values) for values in speeds.values())
    ratio = statistics.median(ratios)
    print(f"| {name} | {method} | {workers} | {hand:,.1f} | {rtk:,.1f} | {ratio:.2f} |", flush=True)
    return ratio


def main() -> None:
    """Print the table and the least ratio."""
    options = parse()
    if options.loop is not None:
        name, *given = options.loop
        arguments: list[Any] = [CASES[name], folder_of_data(), *given]
        print(train(*arguments))
        return
    print(f"torch {torch.__version__}, images/s\n\n| network | method | workers | by hand | rtk | ratio |")
    print("|---" * 6 + "|")
    ratios = [
        measure(name, method, workers, options)
        for name in options.networks
        for method in options.methods
        for workers in options.workers
    ]
    print(f"\nratio {min(ratios):.2f}")


if __name__ == "__main__":
    main()
