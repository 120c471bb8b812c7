"""Peak memory of training ranks on this machine, measured in processes of their own.

The figure of a rank is the growth of its peak resident memory over what it held when everything was
imported, the process group stood and a tiny model had been trained (which loads kernels and thread pools).
Freed memory goes back to the system at once, so that residency is what is alive.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import re
import socket
from pathlib import Path
from typing import Any

import torch

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.objectives import active_terms
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step

CLASSES = 100
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
TINY = {"name": "timm/test_vit"}


def measure_peaks(tree: dict[str, Any], ranks: int, steps: int = 3) -> list[int]:
    """Peak bytes of every rank over some updates of a config on random images."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (tree, ranks, port, steps, results)
    processes = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    peaks = dict(results.get(timeout=1200) for _ in processes)
    for process in processes:
        process.join()
    return [peaks[rank] for rank in range(ranks)]


def random_views(tree: dict[str, Any], ranks: int) -> dict[str, View]:
    """One rank's share of a batch of random images, for every view that the objective looks at."""
    config = build_config(tree)
    images = config.train.batch_size // ranks
    side = config.data.image_size
    names = {term.view.name for term in active_terms(config.objective)}
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    return {name: View(torch.rand(images, 3, side, side, generator=generator), labels) for name in names}


def start_rank(rank: int, ranks: int, port: int) -> None:
    """Join a gloo group with the cores shared out evenly."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    torch.distributed.init_process_group("gloo")


def _rank(rank: int, tree: dict, ranks: int, port: int, steps: int, results: Any) -> None:
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**16)
    libc.mallopt(M_TRIM_THRESHOLD, 2**16)
    start_rank(rank, ranks, port)
    _train(tree | {"model": TINY}, ranks, 2)
    gc.collect()
    libc.malloc_trim(0)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    _train(tree, ranks, steps)
    results.put((rank, _status("VmHWM") - before))
    torch.distributed.barrier()


def _train(tree: dict[str, Any], ranks: int, steps: int) -> None:
    config = build_config(tree)
    state = build_state(TrainingJob("", tree, CLASSES, 10**6, resume=False), torch.device("cpu"))
    state.engine.module.train()
    views = random_views(tree, ranks)
    for step in range(steps):
        train_step(state, views, step, accumulation=config.train.accumulation)
    state.engine.destroy()


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024


def settings(stage: int, ranks: int, **sections: dict[str, Any]) -> dict[str, Any]:
    """A config tree for a measurement."""
    train = {"workers": ranks, "zero_stage": stage} | sections.pop("train", {})
    tree = {"data": {"train": "random images"} | sections.pop("data", {}), "train": train, **sections}
    return build_config(tree).model_dump(mode="json")
