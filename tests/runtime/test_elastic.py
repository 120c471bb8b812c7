"""How many workers an elastic group may have, from what its nodes have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.train.v2._internal.execution.scaling_policy import scaling_policy
from ray.train.v2.api.config import ScalingConfig

from rtk.runtime import elastic
from rtk.runtime.elastic import ElasticPolicy, Growth


@pytest.mark.parametrize(
    ("cpus", "spare", "workers"), [(5, 0, 4), (4, 0, 4), (5, 1, 4), (4, 1, 2), (3, 0, 2), (2, 1, 0)]
)
def test_workers_leave_a_cpu_to_what_decodes_their_images(monkeypatch, cpus, spare, workers):
    nodes = {f"node{number}": {"CPU": 1.0} for number in range(cpus)}
    monkeypatch.setattr(elastic, "answering_nodes", lambda: nodes)
    policy = ElasticPolicy(ScalingConfig(num_workers=(2, 4)), Growth((2, 4), None, "runs/a", spare))
    assert policy._count_possible_workers({**nodes, "gone": {"CPU": 1.0}}) == workers


def test_what_a_killed_driver_has_asked_for_is_taken_over_by_the_next(monkeypatch):
    """Under another name it would be kept for three minutes from the run that it was asked for."""
    asked = []

    class Client:
        def __init__(self, name):
            self.name = name

        def send_resource_request(self, config, workers):
            asked.append((self.name, workers))

    monkeypatch.setattr(scaling_policy, "TrainAutoscalingCoordinatorClient", Client)
    for start in ("first", "second"):
        policy = ElasticPolicy(ScalingConfig(num_workers=(2, 4)), Growth((2, 4), None, "runs/a"))
        policy.after_controller_start(SimpleNamespace(run_id=start))
    assert asked == [("train-runs/a", 4)] * 2
