"""Ray Train's trainer as rtk has it: a worker that dies is replaced, in whichever moment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling.failure_policy import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from rtk.runtime.ray_trainer import Restarts, Trainer


def test_a_worker_s_death_counts_as_one_whenever_it_comes():
    policy = Restarts(FailureConfig(max_failures=2))
    in_its_start = ControllerError(ActorDiedError())
    assert policy.make_decision(in_its_start) == FailureDecision.RETRY
    assert policy.make_decision(WorkerGroupError("a", {0: ActorDiedError()})) == FailureDecision.RETRY
    assert policy.make_decision(in_its_start) == FailureDecision.RAISE


def test_an_error_of_ray_s_own_ends_the_run():
    policy = Restarts(FailureConfig(max_failures=2))
    assert policy.make_decision(ControllerError(ValueError("a"))) == FailureDecision.RAISE


class KillsOnce(WorkerGroupCallback):
    """Kills a worker when it is ready, before it is told what to do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def after_worker_group_start(self, worker_group) -> None:
        if not self.marker.exists():
            self.marker.touch()
            os.kill(worker_group.get_workers()[0].metadata.pid, signal.SIGKILL)
            time.sleep(1)


def work(config) -> str:
    return "done"


@pytest.mark.slow
def test_a_worker_that_dies_in_the_last_moment_of_its_start_is_replaced(ray_session, tmp_path):
    trainer = Trainer(
        work,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name="ray",
            storage_path=str(tmp_path),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[KillsOnce(tmp_path / "killed")],
        ),
    )
    assert trainer.fit().return_value == "done"
    assert (tmp_path / "killed").exists()
