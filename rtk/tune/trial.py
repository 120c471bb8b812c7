"""One trial of a sweep, in the process that Ray Tune keeps for one trial after the other.

A trial of one worker trains in that process: no group of workers is started, and imports, the process
group and the decoded data are there already from the second trial on. A trial of several workers starts
a Ray Train group, as `rtk train` does.
"""

from __future__ import annotations

import gc
import math
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rtk.config.load import build_config, override_config
from rtk.config.schema import RunConfig
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import trial_name
from rtk.train.job import Report, TrainingData, TrainingJob

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep share.

    Attributes:
        path: the sweep's folder, in which the trials' run folders are made.
        config_tree: config that the trials' values are laid over.
        environment: content of `environment.json`.
        num_classes: number of classes.
        train_rows: number of training images.
        resources: `CPU` and `GPU` that each worker of a trial holds.
        is_population: whether trials go on from each other's checkpoints.
    """

    path: str
    config_tree: dict[str, Any]
    environment: dict[str, Any]
    num_classes: int
    train_rows: int
    resources: dict[str, float]
    is_population: bool = False


def run_trial(suggestion: dict[str, Any], plan: TrialPlan, data: list[Any]) -> None:
    """Ray Tune's function: train one trial, from its last checkpoint if it has one.

    Reports validation metrics after each epoch; a trial that fails reports `failed`, the reason, and ends
    like any other, so that its process and its place go to the next one at once.

    Args:
        suggestion: `number` and `values` of the trial.
        plan: what all trials share.
        data: reference to the decoded `TrainingData`, boxed.
    """
    from ray import tune

    from rtk.train.launch import reason_of
    from rtk.tune.population import report_checkpoint, take_over

    try:
        config = override_config(build_config(plan.config_tree), suggestion["values"])
        run = _open_run(suggestion["number"], config, plan)
        report: Report = tune.report
        if plan.is_population:
            config = take_over(run, tune.get_checkpoint(), config, suggestion["values"])
            report = partial(report_checkpoint, run)
        tree = config.model_dump(mode="json")
        job = TrainingJob(str(run.path), tree, plan.num_classes, plan.train_rows, resume=False)
        result = _train_trial(job, plan, data[0], report)
        if result["status"] != "finished":
            tune.report({"failed": result["message"]})
        elif not result["metrics"]:  # it had ended before its end was noted
            tune.report(_epochs_after(job, job.total_steps - 1)[0])
    except Exception as error:  # any reason (memory, a bad combination) is the trial's alone
        tune.report({"failed": reason_of(error)})
    finally:
        gc.collect()  # the engine refers to itself; its memory is the next trial's


def _open_run(number: int, config: RunConfig, plan: TrialPlan) -> RunFolder:
    """The trial's folder, made at its first start."""
    run = RunFolder(Path(plan.path) / trial_name(number))
    if not (run.path / "environment.json").exists():
        shutil.rmtree(run.path, ignore_errors=True)  # of a process that was killed while it made the folder
        RunFolder.create(config, run.name)
        run.write_json("environment.json", plan.environment)
    return run


def _train_trial(job: TrainingJob, plan: TrialPlan, data: Any, report: Report) -> dict[str, Any]:
    import ray

    from rtk.train.launch import SKIPPED_FILE
    from rtk.train.training_data import with_own_feed

    if job.config.data.stream:
        data = ray.put(with_own_feed(ray.get(data), job.config, job.run.path / SKIPPED_FILE))
    if job.config.train.workers == 1:
        return _train_here(job, ray.get(data), plan.resources, report)
    return _train_with_workers(job, data, plan.resources)


def _train_with_workers(job: TrainingJob, data: Any, resources: dict[str, float]) -> dict[str, Any]:
    """Train on a Ray Train group, and pass on what it writes into the run's folder.

    Where Ray Tune stops the trial, `report` raises `SystemExit`; the workers then end at their next step.
    """
    from ray import tune

    from rtk.train.checkpoint import read_state
    from rtk.train.launch import fit_workers
    from rtk.train.shard_reader import has_checkpoint

    last = job.run.checkpoints / "last"
    seen = read_state(last)["step"] if has_checkpoint(last) else 0
    job.run.clear_stop()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit_workers, job, data, resources)
        try:
            ended = False
            while not ended:
                ended = bool(wait([future], timeout=POLL_SECONDS).done)
                for result in _epochs_after(job, seen):  # those written before it ended included
                    seen = result["step"]
                    tune.report(result)
        finally:
            job.run.request_stop()
    return future.result()


def _epochs_after(job: TrainingJob, step: int) -> list[dict[str, Any]]:
    """Results of the epochs that ended after a step, as `metrics.csv` has them."""
    by_step: dict[int, dict[str, Any]] = {}
    for row in job.run.read_metrics():
        if row["key"].startswith("val/") and row["step"] > step:
            by_step.setdefault(row["step"], {})[row["key"]] = row["value"]
    return [_result(job, step, metrics) for step, metrics in sorted(by_step.items())]


def _result(job: TrainingJob, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    epoch = math.ceil(step / job.steps_per_epoch)
    return {"epoch": epoch, "step": step, "finished": step == job.total_steps, **metrics}


def _train_here(
    job: TrainingJob, data: TrainingData, resources: dict[str, float], report: Report
) -> dict[str, Any]:
    """Train in this process, as a group of one."""
    import torch

    from rtk.runtime.ray_session import hide_unassigned_gpus
    from rtk.train.setup import keep_freed_memory
    from rtk.train.worker import run_job

    hide_unassigned_gpus()
    keep_freed_memory()
    torch.set_num_threads(job.config.train.threads or max(1, int(resources["CPU"])))
    _join_group_of_one()
    device = torch.device("cuda" if resources.get("GPU") else "cpu")
    return run_job(job, data, device, report)


def _join_group_of_one() -> None:
    """DeepSpeed wants a process group and its launcher's variables, also for a single process."""
    import os

    import torch
    import torch.distributed as dist

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
