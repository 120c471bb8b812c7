"""Memory of an evaluation whose scores are fitted on 200,000 images of 1,000 classes, and what that costs.

    python benchmarks/evaluation_memory.py [--rows 200000] [--folder DIR]

JPEGs of 64x64 and timm's mobilenetv3_small_050 (1,024 features), its weights at random, as `rtk import` and
`rtk evaluate` take them. Peaks of the resident memory of the driver and of each actor, in the driver also of
what is no file in the system's cache (which drops it when memory is short), sampled ten times a second. Then
the first 5,000 images of every set are evaluated with all arrays in memory and with all of them in files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from rtk.config.load import load_config
from rtk.evaluate.evaluate import evaluate_run
from rtk.runs.folder import RunFolder
from rtk.runtime import large_arrays
from rtk.train.imported import import_weights

SIDE, CLASSES, ROWS_PER_FILE, TESTED, SUBSET = 64, 1000, 20_000, 5_000, 5_000
NETWORK = "mobilenetv3_small_050"
SCORES = "msp,max_logit,energy,knn,vim,residual,mds,rmds,react,dice,ash,scale,she,klm,openmax,nnguide,fdbd"
GIB = 2**30


def write_set(folder: Path, rows: int, seed: int) -> Path:
    """Parquet of JPEGs: a coarse pattern for each class, other ones for each seed above 2, and noise."""
    folder.mkdir(parents=True)
    patterns = np.random.default_rng(max(0, seed - 2)).integers(0, 256, (CLASSES, 8, 8, 3))
    noise = np.random.default_rng([seed, rows])
    for first in range(0, rows, ROWS_PER_FILE):
        labels = np.arange(first, min(first + ROWS_PER_FILE, rows)) % CLASSES
        images = [_encode(patterns[label] + noise.normal(0, 40, (8, 8, 3))) for label in labels]
        table = pa.table(
            {"image": images, "label": labels, "sample_id": np.arange(first, first + len(labels))}
        )
        pq.write_table(table, folder / f"part-{first:07}.parquet", row_group_size=1000, compression="zstd")
    names = [f"class {label}" for label in range(CLASSES)]
    (folder / "classes.json").write_text(json.dumps({"classes": names}))
    return folder


def _encode(coarse: np.ndarray) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(
        (SIDE, SIDE), Image.Resampling.BICUBIC
    )
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def make_run(folder: Path, name: str) -> RunFolder:
    """A run of random weights."""
    torch.manual_seed(0)
    weights = folder / "weights.safetensors"
    save_file(timm.create_model(NETWORK, num_classes=CLASSES).state_dict(), weights)
    settings = {
        "output": folder / "runs",
        "model.name": f"timm/{NETWORK}",
        "data.train": folder / "train",
        "data.validation": folder / "validation",
        "data.test": folder / "test",
        "data.validation_ood": "null",
        "data.image_size": SIDE,
        "evaluate.scores": f"[{SCORES}]",
        "evaluate.ood_score": "vim",
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load_config(
        "efficientnet_lite0_imagenet1k", [*overrides, f"data.far_ood.other={folder / 'other'}"]
    )
    return import_weights(weights, config, name, None).run


def watched(command: list[str]) -> tuple[dict[str, float], float]:
    """Peaks of memory in GiB, and the seconds that a command took.

    Raises:
        CalledProcessError: it failed.
    """
    peaks: dict[str, float] = {}
    started = time.monotonic()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            for name, size in _sizes(psutil.Process(process.pid)):
                peaks[name] = max(peaks.get(name, 0), size / GIB)
            time.sleep(0.1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peaks, time.monotonic() - started


def _sizes(driver: psutil.Process) -> Iterator[tuple[str, int]]:
    try:
        memory = driver.memory_info()
        yield "driver", memory.rss
        yield "driver, without files", memory.rss - memory.shared
        for child in driver.children(recursive=True):
            title = " ".join(child.cmdline()[:1])
            if "ModelActor" in title:
                yield "actor", child.memory_info().rss
    except psutil.Error:  # one has just ended
        return


def numbers(run: RunFolder, in_memory: int) -> dict[str, Any]:
    """What an evaluation of the first images finds: every score of every image, and the metrics."""
    large_arrays.IN_MEMORY = in_memory
    result = evaluate_run(run, rows=SUBSET)
    scores = pq.read_table(run.evaluation / "scores.parquet")
    return {"scores": scores} | {key: result[key] for key in ("summary", "sets", "calibration")}


def main() -> None:
    """Print peaks, time, and whether the numbers are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="images that scores are fitted on")
    parser.add_argument(
        "--folder", type=Path, help="where to work (default: a new folder for temporary files)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        for seed, (name, rows) in enumerate(
            {"train": options.rows, "validation": TESTED, "test": TESTED, "other": TESTED}.items()
        ):
            if not (folder / name).exists():
                write_set(folder / name, rows, seed)
        run = make_run(folder, "large")
        peaks, seconds = watched([str(Path(sys.executable).with_name("rtk")), "evaluate", str(run.path)])
        images = options.rows + 3 * TESTED
        for name, size in peaks.items():
            print(f"{name:22} {size:5.2f} GiB at most")
        print(f"{images:,} images in {seconds:.0f} s, scores of {len(SCORES.split(','))} kinds among them")
        found = [numbers(make_run(folder, f"subset-{limit}"), limit) for limit in (2**40, 0)]
        print(f"the same numbers in memory and in files: {found[0] == found[1]}")


if __name__ == "__main__":
    main()
