"""How many workers an elastic group may have, from what its nodes have."""

from __future__ import annotations

import pytest
from ray.train.v2.api.config import ScalingConfig

from rtk.runtime import elastic
from rtk.runtime.elastic import ElasticPolicy, Growth


@pytest.mark.parametrize(
    ("cpus", "spare", "workers"), [(5, 0, 4), (4, 0, 4), (5, 1, 4), (4, 1, 2), (3, 0, 2), (2, 1, 0)]
)
def test_workers_leave_a_cpu_to_what_decodes_their_images(monkeypatch, cpus, spare, workers):
    nodes = {f"node{number}": {"CPU": 1.0} for number in range(cpus)}
    monkeypatch.setattr(elastic, "answering_nodes", lambda: nodes)
    policy = ElasticPolicy(ScalingConfig(num_workers=(2, 4)), Growth((2, 4), None, spare))
    assert policy._count_possible_workers({**nodes, "gone": {"CPU": 1.0}}) == workers
