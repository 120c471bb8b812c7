"""One way to join or start Ray, with rtk's settings."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Read when ray is first imported; a user's own setting wins.
QUIET_AND_QUICK = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default makes every report block for 2 s
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the rest is in Ray's log files
}


def start_ray(dashboard: bool = False) -> Any:
    """Join the cluster of RAY_ADDRESS (set inside a Ray job), or start Ray on this machine.

    `dashboard` starts Ray's dashboard beside it, through which Ray Train finds out that a driver of
    workers has died (a sweep's trial of several workers), and frees what they held.

    Without RAY_ADDRESS, Ray itself would join whatever cluster was last started here, and hang if
    that one has died; `RAY_ADDRESS=auto` asks for it.
    """
    for name, value in QUIET_AND_QUICK.items():
        os.environ.setdefault(name, value)
    import logging

    import ray

    address = os.environ.get("RAY_ADDRESS", "local")
    if not ray.is_initialized():
        with _silent_native_stderr():
            ray.init(
                address=address,
                include_dashboard=dashboard if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        if threading.current_thread() is threading.main_thread():
            # Ray's own handler would end the process with exit code 15.
            signal.signal(signal.SIGTERM, _terminate)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return ray


def hide_unassigned_gpus() -> None:
    """Where Ray has given this process no GPU, let torch and DeepSpeed see none; call it before they look."""
    import ray

    if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def worker_memory(workers: int, gpus: float) -> int:
    """Bytes that each worker may use: of its GPU, or share of one, else its part of all nodes' memory."""
    import ray

    if not gpus:
        return int(ray.cluster_resources()["memory"]) // workers
    return int(min(1, gpus) * ray.get(ray.remote(num_gpus=min(1, gpus))(_gpu_memory).remote()))


def _gpu_memory() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


@contextmanager
def _silent_native_stderr() -> Iterator[None]:
    """Keep Ray's native code from writing to standard error while it starts (Python errors still raise)."""
    kept = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_resources(workers: int, gpus: bool) -> None:
    """Refuse a run that would wait forever for workers.

    Raises:
        ValueError: naming `train.workers`, what was got and what the cluster has.
    """
    present = units_of_cluster(gpus)
    if workers > present:
        kind = "GPU" if gpus else "CPU"
        raise ValueError(
            f"train.workers: got {workers}, wanted at most {present} (the {kind}s of this Ray cluster)"
        )


def units_of_cluster(gpus: bool) -> int:
    """GPUs, or CPUs, of the nodes that are up."""
    import ray

    return int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
