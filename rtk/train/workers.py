"""The workers of a run, as the driver sees them: started, watched, asked to stop, ended where they hang."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rtk.config.schema import RunConfig
from rtk.models.backbones import is_of_timm
from rtk.runs.desk import open_desk
from rtk.runs.working_copy import store_of
from rtk.runtime.interrupts import RAY_ENDED, Interrupts
from rtk.runtime.ray_session import is_alive, units_of_cluster, units_that_may_come
from rtk.train.hang import HangWatch
from rtk.train.job import FAILURE_FILE, TrainingJob
from rtk.train.leaving import LeavingNodes
from rtk.train.progress import ProgressDisplay

if TYPE_CHECKING:
    from rtk.runtime.elastic import Growth

POLL_SECONDS = 0.2
LOST_NODE = "a node is lost: waiting for {workers} workers, to go on from the last checkpoint"


def modules_of_workers(config: RunConfig) -> tuple[str, ...]:
    """What the workers of a run import, beside Ray."""
    return ("rtk.train.forked", "timm") if is_of_timm(config.model.name) else ("rtk.train.forked",)


def use_gpus() -> bool:
    """Whether workers hold GPUs: where the cluster has any, or may start nodes that have."""
    return units_of_cluster(gpus=True) > 0 or units_that_may_come(gpus=True) > 0


def spare_units(config: RunConfig, gpus: bool) -> int:
    """CPUs that workers leave free where they hold CPUs: one, to decode what is streamed."""
    return int(config.data.stream and not gpus)


def watch_workers(job: TrainingJob, data: Any, interrupts: Interrupts) -> dict[str, Any]:
    """Run the workers in a thread, while this one shows progress, passes on interrupts and ends a hang."""
    result: dict[str, Any] = {}

    def fit() -> None:
        try:
            result.update(fit_workers(job, data))
        except Exception as error:  # shown in one line by the caller; the traceback is in Ray's logs
            result.update(status="failed", message=reason_of(error))

    # A daemon, so that a second Ctrl-C ends the process even where the workers hang.
    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    train, gpus = job.config.train, use_gpus()
    workers = job.config.worker_counts[0]
    needed = workers + spare_units(job.config, gpus)
    complete, hang = True, HangWatch(job.run, train.workers, train.hang_timeout, aloud=False)
    leaving = LeavingNodes(job.run, train.workers, aloud=False)
    thread.start()
    with ProgressDisplay(job.run) as display:
        while thread.is_alive() and is_alive():
            thread.join(POLL_SECONDS)
            display.refresh()
            if interrupts.signal is not None:  # what ends this process may be ending Ray: it is not asked
                if not job.run.stop_requested():
                    display.say("stopping: writing a checkpoint (once more to stop at once)")
                    job.run.request_stop()
                continue
            if is_alive():
                leaving.look()
            if is_alive() and complete != (units_of_cluster(gpus) >= needed):
                complete = not complete
                display.say("the nodes are back" if complete else LOST_NODE.format(workers=workers))
            elif complete:
                hang.look()
            else:
                hang.rest()
        if thread.is_alive():
            job.run.add_notice(RAY_ENDED, aloud=False)
            status = "failed" if interrupts.signal is None else "interrupted"
            result = {"status": status, "message": RAY_ENDED}
    job.run.clear_stop()
    return result


def fit_workers(job: TrainingJob, data: Any, resources: dict[str, float] | None = None) -> dict[str, Any]:
    """Run a job on a group of Ray Train workers and return what rank 0's `train_worker` does.

    Args:
        job: the run.
        data: reference to its `TrainingData`.
        resources: what each worker holds (`CPU`, `GPU`); None: one GPU where there are any, or one CPU.
    """
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig

    from rtk.runtime.process_group import NodeNetworkConfig
    from rtk.runtime.ray_trainer import Trainer
    from rtk.train.worker import train_worker

    job.run.remove_json(FAILURE_FILE)  # of an earlier start
    job.run.clear_save()
    if job.desk is None and store_of(job.run.path) is not None:
        job = replace(job, desk=open_desk(job.run))

    train = job.config.train
    elastic = train.min_workers is not None and resources is None  # a trial has what it was given
    trainer = Trainer(
        train_worker,
        _growth(job) if elastic else None,
        train_loop_config={"job": job, "data": data},
        backend_config=NodeNetworkConfig(modules=("rtk.train.worker",)),
        scaling_config=ScalingConfig(
            num_workers=(job.config.worker_counts[0], train.workers) if elastic else train.workers,
            use_gpu=bool(resources.get("GPU")) if resources else use_gpus(),
            resources_per_worker=resources,
        ),
        run_config=RayRunConfig(
            name="ray",
            storage_path=str(job.run.path),
            failure_config=FailureConfig(max_failures=train.max_restarts),
        ),
    )
    outcome: dict[str, Any] = trainer.fit().return_value
    return outcome


def _growth(job: TrainingJob) -> Growth:
    """How the group of a run may change."""
    from rtk.runtime.elastic import Growth

    spare = spare_units(job.config, use_gpus())
    return Growth(job.config.worker_counts, job.run, job.run_path, spare)


def reason_of(error: BaseException) -> str:
    """Last line of the innermost cause: Ray wraps a worker's error several times over."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        worker_errors = getattr(error, "worker_failures", None)
        if worker_errors:
            inner = next(iter(worker_errors.values()))
        if not isinstance(inner, BaseException):
            return (
                f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
            )
        error = inner
