"""Run a function on several gloo ranks of one machine."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> Any:
    """What `function(*arguments)` returns on rank 0; the result travels through a file in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = folder / "result.pickle"
    mp.spawn(_main, args=(ranks, port, function, arguments, path), nprocs=ranks)
    return pickle.loads(path.read_bytes())


def _main(rank: int, ranks: int, port: int, function: Callable, arguments: tuple, path: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    result = function(*arguments)
    if rank == 0:
        path.write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()
