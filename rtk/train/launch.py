"""From a config to a finished run: check everything, decode the data, start the workers, watch them."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtk.config.changes import When, changing_keys, may_change
from rtk.config.course import check_course
from rtk.config.errors import ConfigError
from rtk.config.load import flatten, override_config
from rtk.config.overrides import parse_override
from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps
from rtk.data.decode.stream import check_decoding_cpus
from rtk.data.order import steps_per_epoch
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, describe_data, open_training_sets, trained_rows
from rtk.runs.data_record import ENVIRONMENT, NO_RECORD, DataRecord, absolute
from rtk.runs.folder import RunFolder, held
from rtk.runs.names import free_folder
from rtk.runs.origin import is_imported
from rtk.runs.sweep import sweep_of
from rtk.runtime.environment import describe_environment
from rtk.runtime.interrupts import Interrupts
from rtk.runtime.ray_session import check_resources, is_alive, start_ray, units_of_cluster, worker_memory
from rtk.runtime.shared_storage import check_output
from rtk.scores.selection import wanted_scores
from rtk.tracking.sending import mirrored
from rtk.train.going_on import step_reached
from rtk.train.initial import check_head, check_model
from rtk.train.job import FAILURE_FILE, TrainingJob
from rtk.train.plan import choose_stage
from rtk.train.progress import ProgressDisplay
from rtk.train.training_data import load_training_data

SKIPPED_FILE = "skipped.csv"
POLL_SECONDS = 0.2
RAY_ENDED = "Ray has ended on this machine; the run can go on from its last checkpoint"
LOST_NODE = "a node is lost: waiting for {workers} workers, to go on from the last checkpoint"


class TrainingError(RuntimeError):
    """A run ended without finishing; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: its folder.
        status: `finished`, or `interrupted` (by `signal`, where it was one).
        metrics: of the last validation.
        seconds: that it took, from the first image decoded on; of a resumed run, since then.
        signal: its number.
    """

    run: RunFolder
    status: str
    metrics: dict[str, float]
    seconds: float
    signal: int | None = None


def launch_training(config: RunConfig, name: str | None = None) -> Outcome:
    """Train a new run.

    Args:
        config: what is trained.
        name: name of the run and its folder; None: `{recipe}-{date}-{time}-{hex4}`.

    Raises:
        ValueError: where config, data or cluster do not fit; nothing has been started then.
        TrainingError: where the run failed.
    """
    if name is not None:
        free_folder(name, config.output)
    sets = open_for_training(config)
    num_classes = len(sets.train.classes)
    check_model(config, num_classes)
    check_head(config, sets.train.classes)
    if total_steps(config, sets.train) <= 0:
        raise ConfigError(f"train.duration: got {config.train.duration!r}, wanted at least one step")
    config = settle_on_cluster(config, num_classes, Path(config.output))
    run = RunFolder.create(config, name)
    config = run.config()  # names the run's copies of plug-ins, which its workers can read
    run.write_json(ENVIRONMENT, {**describe_environment(config.plugins), **describe_data(sets)})
    with held(run.path, "run"):
        return _run_training(run, config, sets, resume=False)


def resume_training(run: RunFolder, overrides: list[str]) -> Outcome:
    """Continue a run from its last checkpoint, in its folder and its MLflow run.

    Raises:
        ConfigError: where an override changes what may not change, or another process trains the run.
        TrainingError: where the run failed.
    """
    if is_imported(run.path):
        raise ConfigError(
            f"--resume: {run.name} was imported, so there is no training to go on with; "
            f"rtk train RECIPE model.weights={run.path} starts one from its weights"
        )
    stored, sweep = resumed_config(run, overrides), sweep_of(run)
    config = run.located(stored)
    with held(run.path, "run"), held(sweep.path, "sweep") if sweep else nullcontext():
        step = step_reached(run, config.train.select)
        sets = open_for_training(config, DataRecord.read(run.path))
        if total_steps(config, sets.train) <= step:
            raise ConfigError(
                f"train.duration: got {config.train.duration!r}, the run is at step {step} already"
            )
        config = settle_on_cluster(config, len(sets.train.classes), run.path)
        run.change_config(config.model_copy(update={"data": stored.data}), step)
        return _run_training(run, config, sets, resume=step > 0)


def resumed_config(run: RunFolder, overrides: list[str]) -> RunConfig:
    """The config of a run with overrides that a resume allows; any other change is shown and refused.

    Images may have moved: other paths are absolute in it, the others as they were written down.
    """
    trained = run.stored_config()
    config = override_config(trained, dict(map(parse_override, overrides)))
    before, after = (dict(flatten(tree.model_dump(mode="json"))) for tree in (trained, config))
    changed = [key for key in {*before, *after} if before.get(key) != after.get(key)]
    record = DataRecord.read(run.path)
    kept = [key for key in changed if not may_change(key, When.RESUME)]
    refused = sorted(key for key in kept if not record.is_moved(key, after.get(key)))
    if refused:
        diff = ", ".join(f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in refused)
        raise ConfigError(f"resume: {diff}; only {', '.join(changing_keys(When.RESUME))} may change")
    data = config.data.with_paths(lambda key, path: absolute(path) if f"data.{key}" in changed else path)
    return config.model_copy(update={"data": data})


def open_for_training(config: RunConfig, record: DataRecord = NO_RECORD) -> RunSets[ImageDataset]:
    """Open the data sets of a run, and check what its evaluation will compute: now, not after 200 epochs.

    Args:
        config: of the run.
        record: of what it was trained on so far.

    Raises:
        ValueError: naming the key, what was got and what was wanted.
    """
    sets = open_training_sets(config, record)
    wanted_scores(config.evaluate)
    return sets


def total_steps(config: RunConfig, train: ImageDataset) -> int:
    """Optimiser steps of a run, from the number of rows alone.

    Raises:
        ValueError: terms begin or end past them, or cannot be together at some.
    """
    rows = trained_rows(config, train)
    steps = steps_per_epoch(rows, config.train.batch_size, config.data.remainder)
    check_course(config.objective, config.train.duration, steps)
    return duration_steps(config.train.duration, steps)


def settle_on_cluster(config: RunConfig, num_classes: int, folder: Path) -> RunConfig:
    """Start or join Ray, check that it has what a run needs, and settle `train.zero_stage: auto`.

    Args:
        config: of the run.
        num_classes: of its data.
        folder: where the run is or will be written.

    Raises:
        ValueError: naming the key, what was got and what was wanted.
    """
    start_ray()
    check_resources(config.train.workers, _use_gpus())
    check_output(folder)
    if config.data.stream and not _use_gpus():  # a worker with a GPU holds no CPU
        check_decoding_cpus(config.train.workers)
    if config.train.zero_stage == "auto":
        config = choose_stage(config, num_classes, worker_memory(config.train.workers, _use_gpus()))
    return config


def _use_gpus() -> bool:
    return units_of_cluster(gpus=True) > 0


def _run_training(run: RunFolder, config: RunConfig, sets: RunSets[ImageDataset], resume: bool) -> Outcome:
    import ray

    started = time.monotonic()
    run.clear_stop()
    # MLflow's thread starts first: making its database takes as long as decoding the data.
    with mirrored(run) as mirror:
        # There is nothing to save before the workers have begun: an interrupt ends it at once.
        data = load_training_data(config, sets, run.path / SKIPPED_FILE)
        num_classes = len(sets.train.classes)
        job = TrainingJob(str(run.path), config.model_dump(mode="json"), num_classes, data.train_rows, resume)
        with Interrupts() as interrupts:
            result = _watch(job, ray.put(data), interrupts)
        if result["status"] == "failed":
            raise TrainingError(result["message"])
        if result["status"] == "interrupted":
            mirror.final_status = "KILLED"
        seconds = time.monotonic() - started
    return Outcome(run, result["status"], result["metrics"], seconds, interrupts.signal)


def _watch(job: TrainingJob, data: Any, interrupts: Interrupts) -> dict[str, Any]:
    """Run the workers in a thread, while this one shows progress and passes on interrupts."""
    result: dict[str, Any] = {}

    def fit() -> None:
        try:
            result.update(fit_workers(job, data))
        except Exception as error:  # shown in one line by the caller; the traceback is in Ray's logs
            result.update(status="failed", message=reason_of(error))

    # A daemon, so that a second Ctrl-C ends the process even where the workers hang.
    thread = threading.Thread(target=fit, name="trainer", daemon=True)
    thread.start()
    workers, gpus = job.config.train.workers, _use_gpus()
    complete = True
    with ProgressDisplay(job.run) as display:
        while thread.is_alive() and is_alive():
            thread.join(POLL_SECONDS)
            display.refresh()
            if interrupts.signal is not None:  # what ends this process may be ending Ray: it is not asked
                if not job.run.stop_requested():
                    display.say("stopping: writing a checkpoint (once more to stop at once)")
                    job.run.request_stop()
            elif is_alive() and complete != (units_of_cluster(gpus) >= workers):
                complete = not complete
                display.say("the nodes are back" if complete else LOST_NODE.format(workers=workers))
        if thread.is_alive():
            display.say(RAY_ENDED)
            status = "failed" if interrupts.signal is None else "interrupted"
            result = {"status": status, "message": RAY_ENDED, "metrics": {}}
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
    from ray.train.torch import TorchTrainer

    from rtk.runtime.process_group import NodeNetworkConfig
    from rtk.train.worker import train_worker

    (job.run.path / FAILURE_FILE).unlink(missing_ok=True)  # of an earlier start

    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "data": data},
        torch_config=NodeNetworkConfig(),
        scaling_config=ScalingConfig(
            num_workers=job.config.train.workers,
            use_gpu=bool(resources.get("GPU")) if resources else _use_gpus(),
            resources_per_worker=resources,
        ),
        run_config=RayRunConfig(
            name="ray",
            storage_path=str(job.run.path),
            failure_config=FailureConfig(max_failures=job.config.train.max_restarts),
        ),
    )
    outcome: dict[str, Any] = trainer.fit().return_value
    return outcome


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
