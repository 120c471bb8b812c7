"""Run a function on several gloo ranks of one machine."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rtk.train import workers
from rtk.train.job import TrainingJob
from rtk.train.worker import run_job


def run_on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> Any:
    """What `function(*arguments)` returns on rank 0; the result travels through a file in `folder`.

    The ranks are forked from a server that has imported all they need (`tests/forked.py`).
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "result.pickle"
    arguments = (ranks, port, function, arguments, path)
    mp.start_processes(_main, arguments, nprocs=ranks, start_method="forkserver")
    return pickle.loads(path.read_bytes())


def _main(rank: int, ranks: int, port: int, function: Callable, arguments: tuple, path: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(LOCAL_WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    gc.freeze()  # DeepSpeed has garbage searched for whenever an engine is built
    result = function(*arguments)
    if rank == 0:
        path.write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as Python ends, a thread of gloo that lets go of a tensor aborts the process


@contextmanager
def workers_forked() -> Iterator[None]:
    """Train on forked ranks in place of Ray Train's workers, which import everything anew for every run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "fit_workers", _fit)
        yield


def _fit(job: TrainingJob, data: Any, resources: dict[str, float] | None = None) -> dict[str, Any]:
    import ray

    with tempfile.TemporaryDirectory() as folder:
        return run_on_ranks(job.config.train.workers, _train, job, ray.get(data), folder=Path(folder))


def _train(job: TrainingJob, data: Any) -> dict[str, Any]:
    return run_job(job, data, torch.device("cpu"), lambda metrics: None)
