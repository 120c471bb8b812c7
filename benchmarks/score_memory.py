"""Memory and time that fitting each score adds to the predictions it is fitted to.

    python benchmarks/score_memory.py [--images 60000] [--classes 1000] [--features 1024] [--scores NAME ...]

Predictions lie in memory-mapped files, which the kernel may drop, so that the growth of anonymous memory is
what fitting itself needs. Each score is fitted in a process of its own, at the number of images given and at
half of it: what grows with the images is not bounded.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from rtk.scores import SCORES, FitData, Predictions, fit_score


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, value in (("images", 60_000), ("classes", 1000), ("features", 1024)):
        parser.add_argument(f"--{name}", type=int, default=value)
    fitted = [name for name, score in SCORES.items() if score.fit is not None]
    parser.add_argument("--scores", nargs="+", default=fitted, choices=fitted)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_predictions(Path(folder), options.images, options.classes, options.features)
        size = options.images * (options.classes + options.features) * 4 / 2**20
        print(f"predictions of {options.images} images: {size:.0f} MiB\n")
        print("| score | MiB at half | MiB at all | s at all |\n|---|---|---|---|")
        for name in options.scores:
            half, whole = (
                measure(Path(folder), name, options, n) for n in (options.images // 2, options.images)
            )
            print(f"| `{name}` | {half[0]:.0f} | {whole[0]:.0f} | {whole[1]:.1f} |", flush=True)


def write_predictions(folder: Path, images: int, classes: int, features: int) -> None:
    """Random features, and logits of which the right one is usually the largest."""
    generator = np.random.default_rng(0)
    for name, width in (("logits", classes), ("features", features)):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (images, width))
        for start in range(0, images, 4096):
            rows = slice(start, min(start + 4096, images))
            array[rows] = generator.random(array[rows].shape, np.float32)
            if name == "logits":
                array[rows][np.arange(rows.stop - start), np.arange(start, rows.stop) % classes] += 0.8


def measure(folder: Path, name: str, options: argparse.Namespace, images: int) -> tuple[float, float]:
    """MiB of anonymous memory that fitting needs at its peak, and seconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(fit_once, (folder, name, images, options.classes, options.features))


def fit_once(folder: Path, name: str, images: int, classes: int, features: int) -> tuple[float, float]:
    """Fit a score in this process; a tenth of the images are the validation split."""
    held = images // 10
    arrays = [np.load(folder / f"{part}.npy", mmap_mode="c") for part in ("logits", "features")]
    labels = torch.arange(images) % classes

    def split(rows: slice) -> Predictions:
        return Predictions(*(torch.from_numpy(array[rows]) for array in arrays), labels[rows])

    weight = torch.randn(classes, features, generator=torch.Generator().manual_seed(0))
    fit = FitData(split(slice(held, images)), split(slice(held)), weight, torch.zeros(classes))
    before, peak, done = anonymous_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    fit_score(name, fit)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return max(peak[0] - before, 0), seconds


def anonymous_memory() -> float:
    """MiB of this process that cannot be dropped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


if __name__ == "__main__":
    main()
