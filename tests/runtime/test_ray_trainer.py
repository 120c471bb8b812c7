"""Ray Train's trainer as rtk has it: a worker that dies is replaced, also in the last moment of its start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from rtk.runtime import ray_trainer
from rtk.runtime.ray_trainer import Trainer

pytestmark = pytest.mark.slow


class KillsOnce(WorkerGroupCallback):
    """Kills a worker when it is ready, before it is told what to do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def after_worker_group_start(self, worker_group) -> None:
        if not self.marker.exists():
            self.marker.touch()
            worker = psutil.Process(worker_group.get_workers()[0].metadata.pid)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait(10)


def work(config) -> str:
    return "done"


@pytest.mark.parametrize("is_own_session", [True, False])
def test_a_worker_that_dies_in_the_last_moment_of_its_start_is_replaced(
    ray_session, tmp_path, monkeypatch, is_own_session
):
    """Its group holds every CPU: the next one would wait for ever, did the first not give them back."""
    monkeypatch.setattr(ray_trainer, "is_own_session", lambda: is_own_session)
    trainer = Trainer(
        work,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=int(ray_session.cluster_resources()["CPU"])),
        run_config=RunConfig(
            name="ray",
            storage_path=str(tmp_path),
            failure_config=FailureConfig(max_failures=1),
            callbacks=[KillsOnce(tmp_path / "killed")],
        ),
    )
    assert trainer.fit().return_value == "done"
    assert (tmp_path / "killed").exists()
