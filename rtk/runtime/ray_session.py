"""One way to join or start Ray, with rtk's settings."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from contextlib import nullcontext, suppress
from typing import Any

from rtk.runtime.fork_server import client, fork_with
from rtk.runtime.interrupts import raise_termination
from rtk.runtime.ray_daemons import daemons_in_own_session, daemons_of_one_machine, silent_native_stderr

SECONDS_TO_ANSWER = 20.0  # a cluster that is there answers within one
UNITS_SECONDS = 1.0  # between two looks how many workers there can be

# Read when ray is first imported; a user's own setting wins.
QUIET_AND_QUICK = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default makes every report block for 2 s
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # it starts an actor for the footers of Parquet files, at each pass
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the rest is in Ray's log files
}


def start_ray(dashboard: bool = False) -> Any:
    """Join the cluster of RAY_ADDRESS (set inside a Ray job), or start Ray on this machine.

    `dashboard` starts Ray's dashboard beside it, through which Ray Train finds out that a driver of
    workers has died (a sweep's trial of several workers), and frees what they held.

    Without RAY_ADDRESS, or where it is empty, Ray itself would join whatever cluster was last started here,
    and hang if that one has died; `RAY_ADDRESS=auto` asks for it.

    Raises:
        ValueError: naming RAY_ADDRESS, where no cluster answers there.
    """
    for name, value in QUIET_AND_QUICK.items():
        os.environ.setdefault(name, value)
    import logging

    import ray

    if not ray.is_initialized():
        address = _address()
        alone = daemons_of_one_machine(dashboard) if address == "local" else nullcontext()
        with silent_native_stderr(), daemons_in_own_session(), alone:
            _check_answer(address)
            ray.init(
                address=address,
                include_dashboard=dashboard if address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        if address == "local":
            atexit.register(ray.shutdown)  # before Ray's own, which sleeps for a second first
        raise_termination()  # Ray's own handler would end the process with exit code 15
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    return ray


def prepare_workers(*modules: str) -> None:
    """Begin to import what Ray's processes on this machine will need, best before `start_ray`.

    Args:
        modules: what they import.
    """
    is_too_late = client() is None and "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if not is_on_cluster() and not is_too_late:
        fork_with(*modules)


def _address() -> str:
    """The cluster to join, or `local`."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    if not address:
        os.environ.pop("RAY_ADDRESS", None)  # Ray's libraries would take it for an address
    return address or "local"


def _check_answer(address: str) -> None:
    """Refuse an address where no cluster answers, for which Ray itself would wait for many minutes.

    Raises:
        ValueError: naming RAY_ADDRESS.
    """
    if address == "local" or "://" in address:  # Ray's client has a limit of its own
        return
    from ray._private.services import canonicalize_bootstrap_address_or_die
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # of compiled code

    answers = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # none comes in time, and that is all there is to know
            GcsClient(address=found)
            answers.set()

    try:
        found = canonicalize_bootstrap_address_or_die(address)
    except (ValueError, ConnectionError, OSError) as error:
        raise ValueError(f"RAY_ADDRESS: got {address!r}, wanted host:port, auto or local ({error})") from None
    threading.Thread(target=ask, daemon=True).start()
    if not answers.wait(SECONDS_TO_ANSWER):
        raise ValueError(
            f"RAY_ADDRESS: got {address!r}, where no Ray cluster has answered for {SECONDS_TO_ANSWER:g} s; "
            "without RAY_ADDRESS, Ray is started on this machine"
        )


def is_own_session() -> bool:
    """Whether this process has started the session that it is in: all of it is on this machine."""
    import ray

    node = ray._private.worker._global_node
    return node is not None and node.is_head()


def is_on_cluster() -> bool:
    """Whether the session is, or will be, one that others have started and that may have other machines."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return not is_own_session()
    return bool(os.environ.get("RAY_ADDRESS", "").strip())


def is_alive() -> bool:
    """Whether the daemons of Ray that this process has started are all there; True where it has started none.

    Asking Ray itself would block for a minute once they are gone, and then end this process.
    """
    import ray

    node = ray._private.worker._global_node
    started = {} if node is None else node.all_processes
    daemons = [found.process for kind in ("gcs_server", "raylet") for found in started.get(kind, ())]
    return all(daemon.poll() is None for daemon in daemons)


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


def check_resources(workers: int, gpus: bool) -> None:
    """Refuse a run that would wait forever for workers.

    Raises:
        ValueError: naming `train.workers`, what was got and what the cluster has.
    """
    present = units_of_cluster(gpus)
    if workers > present:
        raise ValueError(
            f"train.workers: got {workers}, wanted at most {present} (the {_kind(gpus)}s of this Ray cluster)"
        )


def wait_for_units(wanted: int, gpus: bool, seconds: float) -> None:
    """Wait until so many GPUs, or CPUs, are up, or time is up; a cluster that grows is asked for them."""
    from ray.autoscaler.sdk import request_resources

    before, present = -1, units_of_cluster(gpus)
    if present >= wanted:
        return
    request_resources(bundles=[{_kind(gpus): 1}] * wanted)
    until = time.monotonic() + seconds  # on a busy machine the request itself may take longer
    try:
        while present < wanted and time.monotonic() < until:
            if present != before:
                print(f"waiting for workers: {present} of {wanted} {_kind(gpus)}s are up", file=sys.stderr)
            time.sleep(min(UNITS_SECONDS, seconds))
            before, present = present, units_of_cluster(gpus)
    finally:
        request_resources(bundles=[])  # the run asks for its own, and nobody for a wait that was interrupted


def draining_nodes() -> dict[str, float | None]:
    """Nodes that are about to be taken away, by their ids: when, in seconds since 1970; None: not known."""
    from ray._private.state import state

    return {node: at / 1000 if at else None for node, at in state.get_draining_nodes().items()}


def units_that_may_come(gpus: bool) -> int:
    """GPUs, or CPUs, of all nodes that the cluster's autoscaler may start; 0 where it has none."""
    from ray._private.state import state

    return int((state.get_max_resources_from_cluster_config() or {}).get(_kind(gpus), 0))


def _kind(gpus: bool) -> str:
    return "GPU" if gpus else "CPU"


def units_of_cluster(gpus: bool) -> int:
    """GPUs, or CPUs, of the nodes that are up."""
    import ray

    return int(ray.cluster_resources().get(_kind(gpus), 0))
