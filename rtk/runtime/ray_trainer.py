"""Ray Train's trainer, which starts its processes in less time where the session is this process's own."""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal import constants
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from rtk.runtime.ray_session import is_own_session


class InheritingController(TrainController):
    """Hands its workers no environment: they have that of Ray's daemons, which have the driver's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        constants.ENV_VARS_TO_PROPAGATE.clear()
        super().__init__(*arguments, **options)


class Trainer(DataParallelTrainer):
    """Starts the processes of a training in the environment that the session has.

    Ray gives them one of their own, in case the nodes have another: each then starts after a program that
    prepares it, and none that Ray has ready can be used.
    """

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        if not is_own_session():
            return super()._initialize_and_run_controller(**arguments)
        controller = ray.remote(num_cpus=0)(InheritingController).remote(**arguments)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())
