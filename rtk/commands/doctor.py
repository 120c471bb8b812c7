"""`rtk doctor`: what this machine can do."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk doctor`."""
    add_json(
        add_command(commands, "doctor", run, "check versions, accelerators and collectives", "rtk doctor")
    )


def run(options: Options) -> int:
    """`rtk doctor`."""
    checks = []
    for check in examine():
        checks.append(check)
        if not options.json:
            print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}", flush=True)
    if options.json:
        print_json({check.name: {"ok": check.ok, "found": check.found} for check in checks})
    return 0 if all(check.ok for check in checks) else 1


COLLECTIVE_RANKS = 2
FOUND = "found: "  # what a check of another process says comes after it; libraries print too
WANTED_GIB = 2


@dataclass(frozen=True)
class Check:
    """One thing looked at: its name, whether it is fit for use, and what was found."""

    name: str
    ok: bool
    found: str


def examine() -> Iterator[Check]:
    """Every check as soon as it is done, in the order in which they are shown; one that raises has failed."""
    ray = _start_ray_check()
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "hardware": _hardware,
        "bf16 autocast": _bf16,
        "DeepSpeed": _deepspeed,
        "2-worker collective": _collective,
        "output folder": _writable,
        "free disk": _disk,
        "Ray": partial(_outcome, ray),
    }
    for name, action in checks.items():
        yield _check(name, action)


def _check(name: str, action: Callable[[], str]) -> Check:
    try:
        return Check(name, True, action())
    except Exception as error:  # a doctor reports whatever is wrong
        return Check(name, False, f"{type(error).__name__}: {error}")


def _packages() -> str:
    from rtk.runtime.environment import package_versions

    versions = package_versions()
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _hardware() -> str:
    from rtk.runtime.environment import describe_hardware

    hardware = describe_hardware()
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {gpus}"


def _bf16() -> str:
    from rtk.runtime.environment import describe_hardware

    return "in hardware" if describe_hardware()["bf16"] else "not in hardware, precision auto means fp32"


def _deepspeed() -> str:
    """Load DeepSpeed and say which of its fused kernels could be built here; rtk needs none of them."""
    from rtk.train.engine import import_deepspeed

    deepspeed = import_deepspeed()
    from deepspeed.accelerator import get_accelerator
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    device = get_accelerator().device_name()
    compiler = shutil.which("nvcc" if device == "cuda" else "g++")
    kernels = f"{len(ALL_OPS)} fused kernels could be compiled with {compiler}" if compiler else "no compiler"
    return f"{deepspeed.__version__} on {device}, {kernels} (none is needed)"


def _collective() -> str:
    """One ZeRO-1 step on two processes: process group, collectives and DeepSpeed's engine at once."""
    import torch._dynamo  # noqa: F401  # every optimizer loads it: once here, for forked ranks have it
    import torch.multiprocessing as mp

    from rtk.train.engine import import_deepspeed

    import_deepspeed()  # once, likewise
    gc.freeze()  # they would collect it all again, for DeepSpeed forces that for every engine
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_sharded_step, (port, folder), COLLECTIVE_RANKS, start_method=_start_method())
        weights = {Path(folder, str(rank)).read_text(encoding="utf-8") for rank in range(COLLECTIVE_RANKS)}
    if len(weights) != 1:
        raise RuntimeError(f"after a sharded step the ranks hold different weights: {weights}")
    seconds = time.monotonic() - started
    return f"a ZeRO-1 step on {COLLECTIVE_RANKS} processes works ({seconds:.1f} s with their start)"


def _start_method() -> str:
    """How the ranks start: forked at once, but where CUDA or Ray is in use, which a fork would break."""
    import ray
    import torch

    return "spawn" if torch.cuda.is_available() or ray.is_initialized() else "fork"


def _sharded_step(rank: int, port: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    from rtk.config.load import build_config
    from rtk.train.engine import backward, build_engine

    warnings.simplefilter("ignore")  # torch's about what DeepSpeed calls
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(COLLECTIVE_RANKS))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    enough_gpus = torch.cuda.device_count() >= COLLECTIVE_RANKS
    dist.init_process_group("nccl" if enough_gpus else "gloo")
    model = torch.nn.Linear(4, 1)
    train = {"batch_size": COLLECTIVE_RANKS, "workers": COLLECTIVE_RANKS}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = build_engine(model, optimizer, build_config({"data": {"train": "none"}, "train": train}))
    images = torch.full((1, 4), rank + 1.0, device=engine.device)
    backward(engine, engine(images).mean(), reduce=True)
    engine.step()
    Path(folder, str(rank)).write_text(str(model.weight.tolist()), encoding="utf-8")
    dist.destroy_process_group()
    # Not as Python ends: a thread of gloo that lets go of a tensor meanwhile aborts it (pytorch#179291).
    os._exit(0)


def _start_ray_check() -> subprocess.Popen[str]:
    """Ray takes seconds to start: it does so beside the other checks."""
    code = f"from rtk.commands.doctor import found_in_ray; print({FOUND!r} + found_in_ray(), flush=True)"
    return subprocess.Popen(  # nosec B603  # this Python, with code that stands here
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )


def _outcome(check: subprocess.Popen[str]) -> str:
    """What a check in a process of its own has found, said before it takes a while to end."""
    assert check.stdout is not None
    found = next((line for line in check.stdout if line.startswith(FOUND)), None)
    if found is None:
        raise RuntimeError(check.communicate()[1].strip().rpartition("\n")[2])
    return found.removeprefix(FOUND).strip()


def found_in_ray() -> str:
    """Join or start Ray; what its cluster has."""
    from rtk.runtime.ray_session import start_ray

    ray = start_ray()
    resources = ray.cluster_resources()
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs in the cluster"


def _writable() -> str:
    with tempfile.TemporaryDirectory(dir=os.getcwd(), prefix=".rtk-doctor-"):
        return f"{os.getcwd()} can be written to"


def _disk() -> str:
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    if free < WANTED_GIB:
        raise RuntimeError(f"{free:.1f} GiB, wanted {WANTED_GIB} for checkpoints and predictions")
    return f"{free:.0f} GiB"
