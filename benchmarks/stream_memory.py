"""Peak memory of all processes while 100,000 JPEGs of 224x224 stream through the loader.

    python benchmarks/stream_memory.py [--rows 100000] [--folder DIR]

Makes Parquet from 200 distinct JPEGs, each row with a number of its own behind the picture, and takes one
epoch of batches with the clean view, as one training worker would. Memory is the sum of the proportional set
sizes (PSS: shared pages are counted once) of this process and all of its descendants, Ray's included, sampled
twice a second.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.faults import FaultLog
from rtk.data.decode.pipeline import Selection
from rtk.data.decode.stream import open_stream, start_feeder
from rtk.data.loader import Loader, ahead
from rtk.data.order import steps_per_epoch
from rtk.data.sets.dataset import open_dataset
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import ViewMaker
from rtk.objectives import view_makers
from rtk.runtime.ray_session import start_ray

SIDE, DISTINCT, ROWS_PER_FILE, BATCH = 224, 200, 10_000, 250


def write_rows(folder: Path, rows: int) -> None:
    """Parquet of `rows` JPEGs."""
    pictures = [encode(picture) for picture in render_fractals(DISTINCT, SIDE, 0)]
    for first in range(0, rows, ROWS_PER_FILE):
        ids = range(first, min(first + ROWS_PER_FILE, rows))
        images = [pictures[row % DISTINCT] + str(row).encode() for row in ids]
        table = pa.table({"image": images, "label": [row % 10 for row in ids], "sample_id": list(ids)})
        pq.write_table(table, folder / f"part-{first:07}.parquet", row_group_size=1000, compression="zstd")
    (folder / "classes.json").write_text(json.dumps({"classes": [str(label) for label in range(10)]}))


def encode(picture: np.ndarray) -> bytes:
    """A picture (3, H, W) as JPEG."""
    buffer = BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def stream_config(folder: Path) -> RunConfig:
    """Clean views of whole pictures."""
    data = {"train": str(folder), "validation": str(folder), "stream": True, "image_size": SIDE}
    return build_config({"data": data, "train": {"batch_size": BATCH}})


def batches(config: RunConfig, folder: Path) -> Iterator[torch.Tensor]:
    """Clean views of one epoch, a batch at a time."""
    stream = open_stream(Selection(open_dataset(folder), SIDE), config.data.shuffle_rows, BATCH)
    steps = steps_per_epoch(len(stream), BATCH)
    feeder = start_feeder(stream, config.seed, FaultLog())

    def make(images: ImageArrays) -> ViewMaker:
        return ViewMaker(images, None, 10, config.data, view_makers(config.objective), config.seed)

    loader = Loader(
        config,
        make,
        None,
        (stream, feeder),
        (steps, steps),
        (0, 1),
        torch.device("cpu"),  # type: ignore[arg-type]
    )
    for views in ahead(lambda step: loader(step, {"clean"}), range(steps), torch.get_num_threads()):
        yield views["clean"].images


class MemoryWatch(threading.Thread):
    """Samples the PSS of this process and its descendants until `stop` is set; `peak` in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stop, self.peak = threading.Event(), 0

    def run(self) -> None:
        """Sample twice a second."""
        while not self.stop.wait(0.5):
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            self.peak = max(self.peak, sum(map(pss, processes)))


def pss(process: psutil.Process) -> int:
    """Proportional set size in bytes; 0 of a process that has gone."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def main() -> None:
    """Print rows, speed and peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the Parquet here; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not any(folder.glob("*.parquet")):
            folder.mkdir(exist_ok=True)
            write_rows(folder, options.rows)
        watch = MemoryWatch()
        watch.start()
        start_ray()
        started, seen = time.perf_counter(), 0
        for images in batches(stream_config(folder), folder):
            seen += len(images)
        seconds = time.perf_counter() - started
        watch.stop.set()
        watch.join()
    print(f"{seen} images of {SIDE}x{SIDE} in {seconds:.0f} s: {seen / seconds:.0f} images/s")
    print(f"peak memory of all processes: {watch.peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
