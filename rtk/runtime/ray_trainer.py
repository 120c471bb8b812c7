"""Ray Train's trainer, which replaces a worker whenever it dies, and starts little where little is needed.

Ray prepares every training for a cluster: with an environment for the nodes, an actor that watches for nodes
being taken away, one that asks an autoscaler for more, one that frees what a dead driver held, and one for
Ray Data's sets. On one machine none has anything to do, and each takes a second of a core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal import constants
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rtk.runtime.elastic import ElasticPolicy, Growth
from rtk.runtime.ray_session import is_own_session

OF_CLUSTERS = (DatasetsCallback, PlacementGroupCleanerCallback)


class Group(WorkerGroup):
    """Workers of which one may die in any moment of their start, and Ray Train starts all of them again.

    Ray itself takes a death between the last preparation and the function's start for an error of the
    controller, which no number of restarts covers, and keeps what the group had reserved.
    """

    def _start(self) -> None:
        try:
            super()._start()
        except RayActorError as error:
            self.shutdown()
            raise WorkerGroupStartupFailedError("a worker died at the end of its start") from error


class Controller(TrainController):
    """Starts workers as the group above."""

    worker_group_cls = Group


class LightController(Controller):
    """Hands its workers no environment, for they have that of Ray's daemons, which have the driver's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        constants.ENV_VARS_TO_PROPAGATE.clear()
        os.environ[constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR] = "0"
        super().__init__(*arguments, **options)


class Policy(FixedScalingPolicy):
    """Asks no autoscaler."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing is asked for."""

    def _maybe_send_resource_request(self) -> None:
        pass


class Trainer(DataParallelTrainer):
    """Starts a controller, its workers, and the actor through which they wait for each other.

    Args:
        function: of every worker.
        growth: how the number of workers may change; None: it stays.
        options: of Ray's trainer.
    """

    def __init__(self, function: Callable[..., Any], growth: Growth | None = None, **options: Any) -> None:
        super().__init__(function, **options)
        self.growth = growth

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if self.growth is not None:
            arguments["scaling_policy"] = ElasticPolicy(self.scaling_config, self.growth)
        elif is_own_session():
            kept = [one for one in arguments["callbacks"] if not isinstance(one, OF_CLUSTERS)]
            arguments.update(callbacks=kept, scaling_policy=Policy(self.scaling_config))
            # An environment of its own would be prepared by a program that runs first, in every process.
            return _result_of(ray.remote(num_cpus=0)(LightController).remote(**arguments))
        return _result_of(_on_this_node(Controller).remote(**arguments))


def _on_this_node(controller: type[TrainController]) -> Any:
    """The actor of a controller, as Ray Train itself starts it: beside the driver, with its environment."""
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    environment = {"env_vars": constants.get_env_vars_to_propagate()}
    return ray.remote(num_cpus=0, label_selector=here, runtime_env=environment)(controller)


def _result_of(controller: Any) -> Any:
    ray.get(controller.run.remote())
    return ray.get(controller.get_result.remote())
