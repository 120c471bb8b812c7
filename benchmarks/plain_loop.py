"""Images/s of `rtk train` beside the loop that one would write by hand, on CIFAR-100 with cross-entropy.

    RTK_DATA=DIR python benchmarks/plain_loop.py [--width 16] [--rows 4096] [--epochs 4] [--rounds 2]

ResNet-18, batch 128, SGD, one process each, in turns. The loop by hand is plain torch as its manual advises:
decoded images in memory, crops and flips on tensors, bf16 autocast where the processor has the instructions,
images and weights laid out channels last, foreach SGD. rtk is the command, with its workers, checkpoints and
metrics; its figure is that of `metrics.csv`, from the second epoch on, as is that of the loop. The last line
is rtk's speed over that of the loop.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.runtime.environment import supports_bf16

BATCH, CLASSES, PADDING = 128, 100, 4


def decoded(file: str, rows: int) -> tuple[Tensor, Tensor]:
    """Images uint8 (N, 3, 32, 32) and labels (N,)."""
    table = pq.read_table(file, columns=["image", "label"]).slice(0, rows)
    pictures = [np.asarray(Image.open(io.BytesIO(data))) for data in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2)), torch.tensor(
        table["label"].to_pylist()
    )


def augmented(images: Tensor) -> Tensor:
    """Padded, cropped and flipped at random, in [0, 1]; channels last."""
    side = images.shape[-1]
    padded = pad(images.float() / 255, (PADDING,) * 4)
    places = torch.randint(0, 2 * PADDING + 1, (len(images), 2)).tolist()
    crops = torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, places, strict=True)]
    )
    flipped = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, crops.flip(-1), crops)
    return flipped.contiguous(memory_format=torch.channels_last)


def plain(file: str, width: int, rows: int, epochs: int) -> float:
    """Images/s of the loop by hand, from the second epoch on."""
    images, labels = decoded(file, rows)
    model = build_model(ModelConfig(name="resnet18", width=width), CLASSES).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * (len(images) // BATCH))
    seen, started = 0, time.perf_counter()
    for epoch in range(epochs):
        if epoch == 1:
            seen, started = 0, time.perf_counter()
        for rows_of_batch in torch.randperm(len(images))[: len(images) // BATCH * BATCH].split(BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=supports_bf16("cpu")):
                loss = cross_entropy(model(augmented(images[rows_of_batch])), labels[rows_of_batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen += BATCH
            loss.item()
    return seen / (time.perf_counter() - started)


def by_command(file: str, width: int, rows: int, epochs: int) -> float:
    """Images/s of `rtk train`, from the second epoch on."""
    with tempfile.TemporaryDirectory() as output:
        overrides = [f"data.train={file}", f"data.train_rows={rows}", f"model.width={width}"]
        overrides += [f"train.duration={epochs}ep", f"output={output}", "data.validation_fraction=0.02"]
        command = [sys.executable, "-m", "rtk.cli", "train", "resnet18_cifar100_ce", *overrides]
        subprocess.run(command, check=True, capture_output=True)
        (metrics,) = Path(output).glob("*/metrics.csv")
        with metrics.open(encoding="utf-8") as opened:
            found = [row for row in csv.DictReader(opened) if row["key"] == "train/images_per_second"]
        return statistics.harmonic_mean([float(row["value"]) for row in found if float(row["epoch"]) > 1])


def main() -> None:
    """Print both and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    file = f"{os.environ['RTK_DATA']}/cifar100/train_10k.parquet"
    given = (file, options.width, options.rows, options.epochs)
    if options.only_plain:
        print(plain(*given))
        return
    alone = [sys.executable, __file__, "--only-plain", *sys.argv[1:]]  # in a process of its own, as rtk's is
    speeds: dict[str, list[float]] = {"plain": [], "rtk": []}
    for _ in range(options.rounds):
        found = subprocess.run(alone, check=True, capture_output=True, encoding="utf-8").stdout
        speeds["plain"].append(float(found))
        speeds["rtk"].append(by_command(*given))
    for name, values in speeds.items():
        print(f"{name:6} {statistics.median(values):8.1f} images/s   {min(values):.1f} - {max(values):.1f}")
    ratios = [ours / theirs for ours, theirs in zip(speeds["rtk"], speeds["plain"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
