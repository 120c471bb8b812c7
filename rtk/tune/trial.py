"""One trial of a sweep, in the process that Ray Tune keeps for one trial after the other.

A trial of one worker trains in that process: no group of workers is started, and imports, the process
group and the decoded data are there already from the second trial on. A trial of several workers starts
a Ray Train group, as `rtk train` does.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rtk.config.load import build_config, override_config
from rtk.config.metric_names import VALIDATION
from rtk.config.schema import RunConfig
from rtk.runs.desk import DeskLine, make_run
from rtk.runs.folder import RunFolder
from rtk.runs.names import seed_run_name
from rtk.runs.results import mean_and_std
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runs.sweep import trial_name
from rtk.runs.trained import validations
from rtk.runs.working_copy import in_folder, local_folder
from rtk.train.job import Report, TrainingData, TrainingJob

POLL_SECONDS = 0.2
# For a stopped trial to end before its process is another's; by default Ray Tune gives it 2 s. It is read in
# the process of the trial, which on a cluster does not have the environment of the driver.
SECONDS_TO_END = ("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a sweep share.

    Attributes:
        path: the sweep's folder, in which the trials' run folders are made; where there is a desk, its URI.
        config_tree: config that the trials' values are laid over.
        environment: content of `environment.json`.
        num_classes: number of classes.
        train_rows: number of training images.
        resources: `CPU` and `GPU` that each worker of a trial holds.
        is_population: whether trials go on from each other's checkpoints.
        replicates: seeds that each trial is trained with.
        desk: who keeps the trials' folders, where not every node sees them.
    """

    path: str
    config_tree: dict[str, Any]
    environment: dict[str, Any]
    num_classes: int
    train_rows: int
    resources: dict[str, float]
    is_population: bool = False
    replicates: int = 1
    desk: DeskLine | None = None

    def config(self, values: dict[str, Any]) -> RunConfig:
        """Config of a trial, whose plug-ins are brought to this node."""
        tree = self.config_tree
        if self.desk is not None:
            tree = self.desk.with_plugins(tree, local_folder(self.path))
        return override_config(build_config(tree), values)


def run_trial(suggestion: dict[str, Any], plan: TrialPlan, data: list[Any]) -> None:
    """Ray Tune's function: train one trial, from its last checkpoint if it has one.

    Reports validation metrics after each epoch; a trial that fails reports `failed`, the reason, and ends
    like any other, so that its process and its place go to the next one at once. With several seeds the first
    reports its epochs, by which a scheduler may stop the trial; the last report is the mean of all.

    Args:
        suggestion: `number` and `values` of the trial.
        plan: what all trials share.
        data: reference to the decoded `TrainingData`, boxed.
    """
    from ray import tune

    from rtk.train.launch import TrainingError
    from rtk.train.workers import reason_of
    from rtk.tune.population import report_checkpoint, take_over

    os.environ.setdefault(*SECONDS_TO_END)
    try:
        config, name = plan.config(suggestion["values"]), trial_name(suggestion["number"])
        _make_run(name, config, plan)
        report: Report = tune.report
        if plan.is_population:
            run = RunFolder(Path(plan.path) / name)
            config = take_over(run, tune.get_checkpoint(), config, suggestion["values"])
            report = partial(report_checkpoint, run)
        ended = [_end_of(name, config, plan, data[0], report)]
        for seed in range(config.seed + 1, config.seed + plan.replicates):
            own, again = config.model_copy(update={"seed": seed}), seed_run_name(name, seed)
            _make_run(again, own, plan)
            ended.append(_end_of(again, own, plan, data[0], _unheard))
        report(mean_result(ended))
    except TrainingError as error:
        tune.report({"failed": str(error)})
    except Exception as error:  # any reason (memory, a bad combination) is the trial's alone
        tune.report({"failed": reason_of(error)})
    finally:
        gc.collect()  # the engine refers to itself; its memory is the next trial's


def mean_result(ended: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of a trial, from those of its seeds: means, and standard deviations as `std/METRIC`."""
    if len(ended) == 1:
        return ended[0]
    metrics = [{k: v for k, v in result.items() if k.startswith(VALIDATION)} for result in ended]
    found = mean_and_std(metrics)
    return ended[0] | found["mean"] | {f"std/{key}": value for key, value in found["std"].items()}


def _unheard(result: dict[str, Any]) -> None:
    """Report nothing: schedulers know one value of a trial for each epoch."""


def _end_of(name: str, config: RunConfig, plan: TrialPlan, data: Any, report: Report) -> dict[str, Any]:
    """Train a run of a trial, report all its epochs but the last, and return the result of that one.

    Raises:
        TrainingError: it failed.
    """
    from rtk.train.launch import TrainingError

    def report_epoch(result: dict[str, Any]) -> None:
        if not result["finished"]:
            report(result)

    job = _job(name, config, plan)
    with closing(job.run):
        result = _train_trial(job, plan, data, report_epoch)
        if result["status"] != "finished":
            seed = f"seed {config.seed}: " if plan.replicates > 1 else ""
            raise TrainingError(f"{seed}{result.get('message', result['status'])}")
        return _epochs_after(job, job.total_steps - 1)[0]


def _make_run(name: str, config: RunConfig, plan: TrialPlan) -> None:
    """Make the folder of a run of a trial, if it is not there, wherever the sweep's is."""
    tree = config.model_dump(mode="json")
    if plan.desk is None:
        make_run(Path(plan.path) / name, tree, plan.environment)
    else:
        plan.desk.about(name).make_run(tree, plan.environment)


def _job(name: str, config: RunConfig, plan: TrialPlan) -> TrainingJob:
    """A run of a trial as its workers need it."""
    return TrainingJob(
        in_folder(plan.path, name),
        config.model_dump(mode="json"),
        plan.num_classes,
        plan.train_rows,
        resume=False,
        shares_checkpoints=plan.is_population,
        desk=None if plan.desk is None else plan.desk.about(name),
    )


def _train_trial(job: TrainingJob, plan: TrialPlan, data: Any, report: Report) -> dict[str, Any]:
    import ray

    from rtk.train.launch import SKIPPED_FILE
    from rtk.train.training_data import with_own_feed

    if job.config.data.stream:
        data = ray.put(with_own_feed(ray.get(data), job.config, job.run.path / SKIPPED_FILE))
    if job.config.train.workers == 1:
        return _train_here(job, ray.get(data), plan.resources, report)
    return _train_with_workers(job, data, plan.resources, report)


def _train_with_workers(
    job: TrainingJob, data: Any, resources: dict[str, float], report: Report
) -> dict[str, Any]:
    """Train on a Ray Train group, and pass on what it writes into the run's folder.

    Where Ray Tune stops the trial, `report` raises `SystemExit`; the workers then end at their next step.
    """
    from rtk.runs.checkpoints import has_checkpoint
    from rtk.train.checkpoint import read_state
    from rtk.train.hang import HangWatch
    from rtk.train.leaving import LeavingNodes
    from rtk.train.workers import fit_workers

    last = job.run.checkpoints / "last"
    pull_checkpoints(last.parent)
    seen = read_state(last)["step"] if has_checkpoint(last) else 0
    job.run.clear_stop()
    workers = job.config.train.workers
    hang, leaving = HangWatch(job.run, workers, job.config.train.hang_timeout), LeavingNodes(job.run, workers)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(fit_workers, job, data, resources)
        try:
            ended = False
            while not ended:
                ended = bool(wait([future], timeout=POLL_SECONDS).done)
                for result in _epochs_after(job, seen):  # those written before it ended included
                    seen = result["step"]
                    report(result)
                hang.look()
                leaving.look()
        finally:
            job.run.request_stop()
    return future.result()


def _epochs_after(job: TrainingJob, step: int) -> list[dict[str, Any]]:
    """Results of the epochs that ended after a step, as `metrics.csv` has them."""
    return [_result(job, at, metrics) for at, metrics in validations(job.run).items() if at > step]


def _result(job: TrainingJob, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    epoch = math.ceil(step / job.steps_per_epoch)
    return {"epoch": epoch, "step": step, "finished": step == job.total_steps, **metrics}


def _train_here(
    job: TrainingJob, data: TrainingData, resources: dict[str, float], report: Report
) -> dict[str, Any]:
    """Train in this process, as a group of one."""
    import torch

    from rtk.runtime.freed_memory import keep_freed_memory
    from rtk.runtime.ray_session import hide_unassigned_gpus
    from rtk.train.leaving import watched_node
    from rtk.train.worker import run_job

    hide_unassigned_gpus()
    keep_freed_memory()
    torch.set_num_threads(job.config.train.threads or max(1, int(resources["CPU"])))
    _join_group_of_one()
    device = torch.device("cuda" if resources.get("GPU") else "cpu")
    with watched_node(job.run):
        return run_job(job, data, device, report)


def _join_group_of_one() -> None:
    """DeepSpeed wants a process group and its launcher's variables, also for a single process."""
    import torch
    import torch.distributed as dist

    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
