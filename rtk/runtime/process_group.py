"""How the workers of a run reach one another: torch's process group, on Ray's network alone.

Torch is imported where it is used, by the workers: Ray's controller, which only watches them, reads this
module too, and Ray's own backend costs it, and so every start, a second.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import GetTimeoutError
from ray.train import get_context
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig

from rtk.runtime.garbage import importing

if TYPE_CHECKING:
    from torch.distributed import Store

CONNECTED_WITHIN = timedelta(minutes=30)  # torch's own time limit of a collective over gloo
SECONDS_TO_DISCONNECT = 5.0


class NodeNetworkBackend(Backend):
    """Ray Train's part that connects the workers before they train."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Connect the workers."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        backend = "nccl" if worker_group.get_resources_per_worker().get("GPU") else "gloo"
        worker_group.execute(connect, address, port, backend, backend_config.modules)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Disconnect them; those that hang are left to be ended."""
        with suppress(GetTimeoutError):
            ray.get(worker_group.execute_async(disconnect), timeout=SECONDS_TO_DISCONNECT)


@dataclass
class NodeNetworkConfig(BackendConfig):
    """Of workers that connect by the address that their node has in the Ray cluster.

    By itself gloo takes the address of the host's name, which on many systems (Debian, Ubuntu) is the
    loopback address: then the workers of two nodes never find each other.

    Attributes:
        modules: that the workers will need, by name.
    """

    modules: tuple[str, ...] = ()

    @property
    def backend_cls(self) -> type[NodeNetworkBackend]:
        """What Ray Train starts."""
        return NodeNetworkBackend


def connect(address: str, port: int, backend: str, modules: Sequence[str] = ()) -> None:
    """Join this worker to the process group, whose store worker 0 keeps at an address.

    The environment is that of `torchrun`, which libraries read.
    """
    with importing():
        import torch.distributed as dist

        for name in modules:
            import_module(name)
    gc.freeze()  # what is here by now stays: DeepSpeed has it searched again and again as it starts
    worker = get_context()
    rank, world = worker.get_world_rank(), worker.get_world_size()
    values = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_RANK": worker.get_local_rank(),
        "LOCAL_WORLD_SIZE": worker.get_local_world_size(),
        "NODE_RANK": worker.get_node_rank(),
    }
    os.environ.update({name: str(value) for name, value in values.items()})
    use_interface_of_node()
    store = store_at_address(address, port, world, is_master=rank == 0)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=CONNECTED_WITHIN)


def disconnect() -> None:
    """Leave the process group."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def use_interface_of_node() -> None:
    """Let gloo use the network interface of this node's address in Ray; a user's own setting wins."""
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def store_at_address(address: str, port: int, world: int, is_master: bool) -> Store:
    """A `TCPStore` that, where it is the one that serves, is reached at its own address alone."""
    from torch.distributed import TCPStore

    listening = None
    if is_master:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((address, port), family=family).detach()
    return TCPStore(address, port, world, is_master, CONNECTED_WITHIN, master_listen_fd=listening)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has an IP address; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return None
