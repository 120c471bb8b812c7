"""How the workers of a run reach one another: torch's process group, on Ray's network alone."""

from __future__ import annotations

import importlib
import os
import socket
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from torch.distributed import Store, TCPStore

TorchBackend: Any = TorchConfig().backend_cls


class NodeNetworkBackend(TorchBackend):
    """Ray Train's backend; the workers choose their network interface before they connect."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Connect the workers."""
        worker_group.execute(use_interface_of_node)
        worker_group.execute(listen_on_node_only)
        super().on_start(worker_group, backend_config)


class NodeNetworkConfig(TorchConfig):
    """`TorchConfig` whose workers connect by the address that their node has in the Ray cluster.

    By itself gloo takes the address of the host's name, which on many systems (Debian, Ubuntu) is the
    loopback address: then the workers of two nodes never find each other.
    """

    @property
    def backend_cls(self) -> type[NodeNetworkBackend]:
        """What Ray Train starts."""
        return NodeNetworkBackend


def use_interface_of_node() -> None:
    """Let gloo use the network interface of this node's address in Ray; a user's own setting wins."""
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def listen_on_node_only() -> None:
    """Let the store by which the workers find each other listen at its own address, not on all interfaces.

    torch offers no other way than to hand it a socket, and Ray none to do that.
    """
    # By name: the package has a function of the same name.
    module: Any = importlib.import_module("torch.distributed.rendezvous")
    module.TCPStore = store_at_address


def store_at_address(host_name: str, port: int, *, is_master: bool, **options: Any) -> Store:
    """A `TCPStore` that, where it is the one that serves, is reached at its host's address alone."""
    if is_master:
        family = socket.getaddrinfo(host_name, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host_name, port), family=family)
        options["master_listen_fd"] = listening.detach()
    return TCPStore(host_name=host_name, port=port, is_master=is_master, **options)


def interface_of(address: str) -> str | None:
    """Name of the network interface that has an IP address; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            return name
    return None
