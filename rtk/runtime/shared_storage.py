"""Whether the nodes of a Ray cluster see the files that this process sees."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rtk.config.errors import ConfigError

SECONDS_TO_APPEAR = 5.0  # a network file system may show a new file late


def check_output(folder: Path) -> None:
    """Refuse a folder of runs that is not the same on every node: workers write to it and read from it.

    Raises:
        ConfigError: naming `output`, where it cannot be written or some node does not see what is written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder.absolute(), prefix=".seen-by-all-") as probe:
            blind = nodes_without(probe.name)
    except OSError as error:
        raise ConfigError(f"output: cannot write to {str(folder)!r} ({error.strerror})") from None
    if blind:
        raise ConfigError(
            f"output: got {str(folder)!r}, which is another folder on node {blind[0]}; "
            "wanted one on storage that all nodes of the Ray cluster share"
        )


def check_input(key: str, file: str) -> None:
    """Refuse a local file that some node would have to read but does not have.

    Raises:
        ConfigError: naming the key.
    """
    blind = nodes_without(file)
    if blind:
        raise ConfigError(
            f"{key}: {file!r} is not on node {blind[0]}; wanted storage that all nodes of the Ray cluster "
            "share, or a URI"
        )


def nodes_without(file: str) -> list[str]:
    """Addresses of the other nodes that could run workers and do not have a file; none without Ray."""
    import ray

    if not ray.is_initialized():
        return []
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here and {"CPU", "GPU"} & node["Resources"].keys()
    ]
    look = ray.remote(num_cpus=0)(_appears)
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in others]
    asked = [look.options(scheduling_strategy=where).remote(file) for where in there]
    seen = [_sees_or_is_lost(answer) for answer in asked]
    return [node["NodeManagerAddress"] for node, found in zip(others, seen, strict=True) if not found]


def _sees_or_is_lost(answer: Any) -> bool:
    """What a node answers; one that is lost, of which Ray knows up to half a minute later, runs no worker."""
    import ray

    try:
        found: bool = ray.get(answer)
        return found
    except ray.exceptions.RayError:
        return True


def _appears(file: str) -> bool:
    until = time.monotonic() + SECONDS_TO_APPEAR
    while not os.path.exists(file):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
