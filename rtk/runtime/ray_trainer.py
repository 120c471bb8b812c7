"""Ray Train's trainer, which starts fewer processes where the session is this process's own.

Ray prepares every training for a cluster: with an environment for the nodes, an actor that watches for nodes
being taken away, one that asks an autoscaler for more, one that frees what a dead driver held, and one for
Ray Data's sets. On one machine none has anything to do, and each takes a second of a core.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.train.v2._internal import constants
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rtk.runtime.elastic import ElasticPolicy, Growth
from rtk.runtime.ray_session import is_own_session

OF_CLUSTERS = (DatasetsCallback, PlacementGroupCleanerCallback)


class Controller(TrainController):
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
            return self._run_here(arguments)
        return super()._initialize_and_run_controller(**arguments)

    def _run_here(self, arguments: dict[str, Any]) -> Any:
        arguments["callbacks"] = [one for one in arguments["callbacks"] if not isinstance(one, OF_CLUSTERS)]
        arguments["scaling_policy"] = Policy(self.scaling_config)
        # An environment of its own would be prepared by a program that runs first, in each of the processes.
        controller = ray.remote(num_cpus=0)(Controller).remote(**arguments)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())
