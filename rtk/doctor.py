"""`rtk doctor`: is this machine able to do what rtk needs?"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rtk.environment import describe_hardware, package_versions

COLLECTIVE_RANKS = 2


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it is fit for use, and what was found."""

    name: str
    ok: bool
    found: str


def examine() -> list[Check]:
    """Every check, in the order in which they are shown; a check that raises has failed."""
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "hardware": _hardware,
        "bf16 autocast": _bf16,
        "DeepSpeed": _deepspeed,
        "2-worker collective": _collective,
        "Ray": _ray,
        "output folder": _writable,
        "free disk": _disk,
    }
    return [_check(name, action) for name, action in checks.items()]


def _check(name: str, action: Callable[[], str]) -> Check:
    try:
        return Check(name, True, action())
    except Exception as error:  # a doctor reports whatever is wrong
        return Check(name, False, f"{type(error).__name__}: {error}")


def _packages() -> str:
    versions = package_versions()
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _hardware() -> str:
    hardware = describe_hardware()
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {gpus}"


def _bf16() -> str:
    return "in hardware" if describe_hardware()["bf16"] else "not in hardware, precision auto means fp32"


def _deepspeed() -> str:
    import torch

    stages = "ZeRO 0-3 with torch optimisers"
    if not torch.cuda.is_available():
        return f"{stages} over gloo; nothing needs a compiler"
    return f"{stages} over NCCL; compiler for its fused kernels: {shutil.which('nvcc') or 'none, not needed'}"


def _collective() -> str:
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        started = time.monotonic()
        mp.spawn(_all_reduce, args=(port, folder), nprocs=COLLECTIVE_RANKS)
        sums = {Path(folder, str(rank)).read_text() for rank in range(COLLECTIVE_RANKS)}
    if sums != {"3.0"}:
        raise RuntimeError(f"all_reduce of 1 and 2 gave {sums}, wanted 3.0")
    return f"all_reduce over gloo works ({time.monotonic() - started:.1f} s with process start)"


def _all_reduce(rank: int, port: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=COLLECTIVE_RANKS)
    value = torch.tensor(float(rank + 1))
    dist.all_reduce(value)
    Path(folder, str(rank)).write_text(str(value.item()))
    dist.destroy_process_group()


def _ray() -> str:
    from rtk.ray_session import start_ray

    ray = start_ray()
    resources = ray.cluster_resources()
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs in the cluster"


def _writable() -> str:
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".rtk-doctor-"):
        return f"{os.getcwd()} can be written to"


def _disk() -> str:
    return f"{shutil.disk_usage(os.getcwd()).free / 2**30:.0f} GiB"
