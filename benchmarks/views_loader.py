"""Images/s of clean + PixMix views through Ray Data into one worker, beside the same views made in process.

    python benchmarks/views_loader.py [--rounds 9]

Ray Data decodes 4,096 pictures of 32x32 into the object store. A Ray worker with one CPU then takes epochs
through `Loader` as a training worker does, in turns with a bare `ViewMaker` on a private copy of the
pictures.
Also: the time from the start of an epoch to its first batch, after the first epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.config.load import build_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.image import encode_png
from rtk.data.loader import Loader, ahead
from rtk.data.order import epoch_order
from rtk.data.sets.dataset import open_dataset
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import ViewMaker
from rtk.objectives import view_makers
from rtk.runtime.freed_memory import keep_freed_memory
from rtk.runtime.ray_session import start_ray

ROWS, BATCH, SIDE = 4096, 512, 32
NAMES = {"clean", "pixmix"}


def write_rows(folder: Path) -> None:
    """Parquet of noisy fractals."""
    fractals = render_fractals(64, SIDE, 1).transpose(0, 2, 3, 1)
    images = [encode_png(np.roll(fractals[row % 64], row // 64, axis=1)) for row in range(ROWS)]
    pq.write_table(pa.table({"image": images, "label": np.arange(ROWS) % 10}), folder / "train.parquet")
    (folder / "classes.json").write_text(json.dumps({"classes": [str(label) for label in range(10)]}))


def work(train: ImageArrays, rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch of both sides, and to an epoch's first batch, as measured in a worker."""
    torch.set_num_threads(1)
    keep_freed_memory()
    config = build_config({"data": {"train": "fractals"}, "train": {"batch_size": BATCH}})
    pictures, steps = render_fractals(32, 36, 0), ROWS // BATCH

    def make(images: ImageArrays) -> ViewMaker:
        return ViewMaker(images, pictures, 10, config.data, view_makers(config.objective), 0)

    loader = Loader(config, make, train, None, (steps, 10**9), (0, 1), torch.device("cpu"))
    own = make(train.take(np.arange(ROWS)))
    seconds: dict[str, list[float]] = {"in process": [], "through Ray Data": [], "first batch": []}
    for epoch in range(rounds + 1):
        started = time.perf_counter()
        for rows in epoch_order(0, epoch, ROWS).reshape(steps, BATCH):
            own(rows, epoch, NAMES)
        seconds["in process"].append(time.perf_counter() - started)
        started, first = time.perf_counter(), None
        for _ in ahead(lambda step: loader(step, NAMES), range(epoch * steps, (epoch + 1) * steps), 1):
            first = first or time.perf_counter() - started
        seconds["through Ray Data"].append(time.perf_counter() - started)
        seconds["first batch"].append(first or 0.0)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    """Print both rates, their ratio and the start-up time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    ray: Any = start_ray()
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder))
        train = decode_datasets({"train": Selection(open_dataset(folder), SIDE)})["train"]
    seconds = ray.get(ray.remote(work).options(num_cpus=1).remote(ray.put(train), rounds))
    for name in ("in process", "through Ray Data"):
        print(f"{name:<17} {ROWS / statistics.median(seconds[name]):8.0f} images/s")
    pairs = zip(seconds["in process"], seconds["through Ray Data"], strict=True)
    print(f"share of the rate {statistics.median(own / loaded for own, loaded in pairs):8.2f}")
    first = seconds["first batch"]
    print(f"first batch after {statistics.median(first):8.3f} s (at most {max(first):.3f} s)")


if __name__ == "__main__":
    main()
