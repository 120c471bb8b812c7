"""Which cluster is joined, and what becomes of one that is not there."""

from __future__ import annotations

import os
import socket

import pytest

from rtk.runtime import elastic, ray_session
from rtk.runtime.elastic import answering_nodes
from rtk.runtime.ray_session import is_alive, start_ray, units_of_cluster, units_that_may_come, wait_for_units


def test_an_empty_address_counts_as_unset(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", " ")
    assert ray_session._address() == "local"
    assert "RAY_ADDRESS" not in os.environ
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ray_session._address() == "10.0.0.1:6379"


def test_an_address_where_nobody_answers_is_named(monkeypatch):
    monkeypatch.setattr(ray_session, "SECONDS_TO_ANSWER", 0.5)
    with socket.socket() as other:  # something else listens there
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(
            ValueError, match=rf"RAY_ADDRESS: got '{address}', where no Ray cluster has answered"
        ):
            ray_session._check_answer(address)


def test_what_is_no_address_is_named():
    with pytest.raises(ValueError, match="RAY_ADDRESS: got 'cluster', wanted host:port, auto or local"):
        ray_session._check_answer("cluster")


def test_daemons_are_out_of_reach_of_signals_to_the_group(ray_session):
    import ray

    assert start_ray() is ray
    assert is_alive()
    daemons = [found.process.pid for found in ray._private.worker._global_node.all_processes["raylet"]]
    assert daemons
    assert all(os.getsid(pid) == pid for pid in daemons)


def test_workers_are_waited_for_until_time_is_up(ray_session, capsys):
    present = units_of_cluster(gpus=False)
    assert units_that_may_come(gpus=True) == 0  # no autoscaler here
    wait_for_units(present, gpus=False, seconds=60)
    assert capsys.readouterr().err == ""
    wait_for_units(present + 1, gpus=False, seconds=0.1)
    assert capsys.readouterr().err == f"waiting for workers: {present} of {present + 1} CPUs are up\n"


def test_nodes_that_answer(ray_session):
    assert answering_nodes() == {node["NodeID"]: node["Resources"] for node in ray_session.nodes()}
    nowhere = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1}
    assert not elastic._answers(nowhere)
