"""What Ray starts on one machine."""

from __future__ import annotations

from ray._private import node, parameter, ray_constants, services

from rtk.runtime.ray_daemons import daemons_in_own_session, daemons_of_one_machine


def settings() -> list:
    names = [(parameter, "RayParams"), (node.Node, "start_api_server"), (services, "get_node")]
    names += [(ray_constants, "ENABLE_RAY_CLUSTER"), (services, "ConsolePopen")]
    return [getattr(owner, name) for owner, name in names]


def test_ray_is_as_before_once_it_has_started():
    before = settings()
    with daemons_in_own_session(), daemons_of_one_machine(dashboard=False):
        assert all(now is not then for now, then in zip(settings(), before, strict=True))
    assert settings() == before


def test_a_dashboard_that_is_wanted_is_started():
    before = node.Node.start_api_server
    with daemons_of_one_machine(dashboard=True):
        assert node.Node.start_api_server is before


def test_a_session_of_one_machine_has_the_daemons_that_it_needs(ray_session):
    started = ray_session._private.worker._global_node.all_processes
    assert set(started) == {"gcs_server", "raylet"}
