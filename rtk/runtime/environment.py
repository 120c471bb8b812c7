"""What a run ran on: versions, commit, hardware. Shared by `environment.json` and `rtk doctor`."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rtk.config.plugin_files import plugin_hashes

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "deepspeed",
    "ray",
    "mlflow",
    "optuna",
    "numpy",
    "pyarrow",
    "pydantic",
)


def describe_environment(plugins: Sequence[str] = ()) -> dict[str, Any]:
    """Versions, commit, hardware and the hashes of plug-ins as plain data."""
    from rtk import __version__

    own, here = source_commit(Path(__file__)), git_commit()
    return {
        "rtk": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "commit": own or here,
        **({"working_folder_commit": here} if own and here and own["hash"] != here["hash"] else {}),
        "hardware": describe_hardware(),
        **({"plugins": plugin_hashes(plugins)} if plugins else {}),
    }


def package_versions() -> dict[str, str | None]:
    """Installed version of every package that the numbers of a run may depend on; None if missing."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def source_commit(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that a source file runs from, as after `pip install -e`; None for a copy.

    A copy may well lie in somebody's repository, in a virtual environment, but is not a part of it.
    """
    file = file.resolve()
    try:
        _git(["ls-files", "--error-unmatch", file.name], file.parent)
    except (OSError, subprocess.SubprocessError):
        return None
    return git_commit(file.parent)


def git_commit(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit of the working folder and whether it has uncommitted changes; None outside git."""
    try:
        commit = _git(["rev-parse", "HEAD"], folder)
        return {
            "hash": commit,
            "dirty": bool(_git(["status", "--porcelain", "--untracked-files=no"], folder)),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def _git(arguments: list[str], folder: Path | None) -> str:
    done = subprocess.run(  # nosec B603 B607  # fixed arguments; git is where the user's PATH says
        ["git", *arguments], cwd=folder, capture_output=True, check=True, timeout=10, encoding="utf-8"
    )
    return done.stdout.strip()


def describe_hardware() -> dict[str, Any]:
    """Processor, memory and accelerators."""
    import torch

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bf16": supports_bf16("cuda" if torch.cuda.is_available() else "cpu"),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def available_cpus() -> int:
    """CPUs that this process may use: those it may run on, and no more than its container's quota."""
    on_linux = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if on_linux else os.cpu_count() or 1
    return max(1, int(min(allowed, cpu_quota(Path("/sys/fs/cgroup")))))


def cpu_quota(group: Path) -> float:
    """CPUs that a control group (version 2 or 1) grants, which affinity does not show; inf: no limit."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join((group / file).read_text(encoding="utf-8") for file in files).split()
        except (OSError, ValueError):
            continue
        return float(quota) / float(period) if float(quota.replace("max", "-1")) > 0 else math.inf
    return math.inf


def supports_bf16(device: str) -> bool:
    """Whether bfloat16 products run in hardware: on a CPU, AVX512-BF16 or AMX."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0].partition(":")[2].strip() if names else platform.processor()
