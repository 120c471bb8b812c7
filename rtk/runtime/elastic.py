"""How many workers a run has, where that may change: as many as there are, and more at a checkpoint.

Ray's own policy starts the group anew on whatever is left when workers are lost, and on more when nodes are
added, at any moment: the steps since the last checkpoint would be done twice. Here it waits for one.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2.api.config import ScalingConfig

LOOK_SECONDS = 2.0
ANSWER_SECONDS = 5.0


class Saves(Protocol):
    """What can be asked for a checkpoint, and tells whether it has yet to be finished."""

    def request_save(self) -> None:
        """Ask for a checkpoint."""

    def save_requested(self) -> bool:
        """Whether it has yet to be finished."""


@dataclass(frozen=True)
class Growth:
    """How a group may change.

    Attributes:
        counts: numbers of workers that it may have.
        run: whose workers save before they are ended to make room for a larger group.
        name: under which nodes are asked for, the same at each start of the run.
        spare: CPUs that they leave free, to decode images on while they train.
    """

    counts: Sequence[int]
    run: Saves
    name: str
    spare: int = 0


class ElasticPolicy(ElasticScalingPolicy):
    """Starts a group with the most workers of those permitted, and replaces it by a larger one after a save.

    Args:
        scaling: Ray's, with the least and the most workers.
        growth: which numbers between them are permitted, and who saves.
    """

    def __init__(self, scaling: ScalingConfig, growth: Growth) -> None:
        super().__init__(scaling)
        self.growth = growth
        self._asked, self._looked = False, time.monotonic()

    def _count_possible_workers(self, reserved_resources: Mapping[str, Any]) -> int:
        there = answering_nodes()
        reached = {node: units for node, units in reserved_resources.items() if node in there}
        possible = super()._count_possible_workers(reached)
        if self.growth.spare:
            cpus = sum(resources.get("CPU", 0) for resources in there.values())
            possible = min(possible, int(cpus) - self.growth.spare)
        return max((count for count in self.growth.counts if count <= possible), default=0)

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nodes in the name of the run, and so take over what a killed driver of it had asked for.

        Ray's own name is another one at each start, and keeps what the last one asked for from the next for
        three minutes.
        """
        super().after_controller_start(SimpleNamespace(run_id=self.growth.name))

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Nothing; or a checkpoint, where there is room for more workers, and when it is there, more."""
        self._maybe_send_resource_request()
        saving = self._asked and self.growth.run.save_requested()
        if saving or (not self._asked and time.monotonic() - self._looked < LOOK_SECONDS):
            return NoopDecision()
        saved, self._asked, self._looked = self._asked, False, time.monotonic()
        possible = self._count_possible_workers(self._get_reserved_resources() or {})
        if possible <= worker_group_state.num_workers:
            return NoopDecision()
        if saved:
            return self._get_resize_decision(possible)
        self.growth.run.request_save()
        self._asked = True
        return NoopDecision()


def answering_nodes() -> dict[str, Mapping[str, float]]:
    """What the nodes have whose daemon takes a connection, by their ids.

    Ray counts a node that has vanished for up to half a minute more, and would wait for workers there for a
    minute.
    """
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(max_workers=max(1, min(64, len(nodes)))) as pool:
        answers = pool.map(_answers, nodes)
        found = zip(nodes, answers, strict=True)
        return {node["NodeID"]: node["Resources"] for node, answer in found if answer}


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        with socket.create_connection(
            (node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=ANSWER_SECONDS
        ):
            return True
    except OSError:
        return False
