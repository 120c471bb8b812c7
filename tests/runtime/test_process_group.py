"""Which network interface the workers connect by."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from ipaddress import ip_address

import psutil
import pytest
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig

from rtk.runtime.process_group import NodeNetworkConfig, interface_of, use_interface_of_node
from rtk.runtime.ray_trainer import Trainer
from tests.ray_processes import living_actors


def test_interface_is_the_one_with_the_address():
    name = interface_of("127.0.0.1")
    assert "127.0.0.1" in {entry.address for entry in psutil.net_if_addrs()[name]}


def test_no_interface_has_an_address_of_elsewhere():
    assert interface_of("no.such.address") is None


@pytest.mark.parametrize("own", [None, "chosen0"])
def test_node_decides_unless_the_user_has(ray_session, monkeypatch, own):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    use_interface_of_node()
    expected = own or interface_of(ray_session.util.get_node_ip_address())
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


def listeners(process: psutil.Process) -> set[str]:
    """Addresses at which a process can be reached."""
    connections = process.net_connections(kind="inet")
    return {entry.laddr.ip for entry in connections if entry.status == psutil.CONN_LISTEN}


def ears_of_worker() -> dict[str, list[str]]:
    assert dist.get_world_size() == 2
    dist.barrier()  # gloo's own connections are there too
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
    variables = {name: os.environ[name] for name in names}
    addresses = sorted(listeners(psutil.Process()))
    beside = living_actors()
    return {"addresses": addresses, "variables": variables, "processes": beside}


def test_on_one_machine_nothing_can_be_reached_from_another(ray_session, tmp_path):
    before = {str(pid) for pid in living_actors()}
    trainer = Trainer(
        ears_of_worker,
        backend_config=NodeNetworkConfig(),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=str(tmp_path)),
    )
    outcome = trainer.fit().return_value
    reached = set(outcome["addresses"])
    assert reached  # the store and gloo listen
    ours = [process.pid for process in psutil.Process().children(recursive=True)]
    for pid in [os.getpid(), *ours, *living_actors()]:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            reached |= listeners(psutil.Process(pid))
    assert all(ip_address(address.removeprefix("::ffff:")).is_loopback for address in reached), reached
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0"}
    assert outcome["variables"] == variables  # as torchrun sets them
    begun = {pid: name for pid, name in outcome["processes"].items() if str(pid) not in before}
    actors = Counter(begun.values())
    assert actors["RayTrainWorker"] == 2
    # Of what Ray starts beside them for a cluster, nothing is there.
    helpers = {"PreemptionWatcher", "PlacementGroupCleaner", "DatasetManager", "_AutoscalingCoordinatorActor"}
    assert not actors.keys() & helpers, actors
