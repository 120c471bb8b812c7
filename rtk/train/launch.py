"""From a config to a finished run: check everything, decode the data, start the workers, watch them."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rtk.config.changes import When, changing_keys, may_change
from rtk.config.course import check_course
from rtk.config.errors import ConfigError
from rtk.config.load import flatten, override_config
from rtk.config.overrides import parse_override
from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps, interval_seconds
from rtk.data.decode.stream import check_decoding_cpus
from rtk.data.order import steps_per_epoch
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, describe_data, open_training_sets, trained_rows
from rtk.runs.data_record import ENVIRONMENT, NO_RECORD, DataRecord, absolute
from rtk.runs.ensemble import read_ensemble
from rtk.runs.folder import RunFolder, held
from rtk.runs.interpolation import read_interpolation
from rtk.runs.listing import status_of
from rtk.runs.names import free_folder
from rtk.runs.origin import is_imported
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runs.sweep import sweep_of
from rtk.runs.trained import last_validation
from rtk.runs.working_copy import local_folder
from rtk.runtime.environment import describe_environment
from rtk.runtime.interrupts import RAY_ENDED, RAY_ENDED_CODE, Interrupts
from rtk.runtime.ray_session import check_resources, prepare_workers, start_ray, wait_for_units, worker_memory
from rtk.scores.selection import wanted_scores
from rtk.tracking.client import reach_early, tracking_uri
from rtk.tracking.names import uri_of_output
from rtk.tracking.sending import mirrored
from rtk.tracking.uploading import check_reachable, uploaded
from rtk.train.going_on import step_reached
from rtk.train.initial import check_head, check_model, source_identity, with_placed_weights
from rtk.train.job import TrainingJob
from rtk.train.plan import choose_stage
from rtk.train.training_data import load_training_data
from rtk.train.vitals import watched
from rtk.train.workers import modules_of_workers, spare_units, use_gpus, watch_workers

SKIPPED_FILE = "skipped.csv"


class TrainingError(RuntimeError):
    """A run ended without finishing; the message says why."""

    exit_code = 1


class RayEndedError(TrainingError):
    """Ray ended under a run, which can go on from its last checkpoint."""

    exit_code = RAY_ENDED_CODE


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
    config = with_placed_weights(config)
    sets = open_for_training(config)
    num_classes = len(sets.train.classes)
    check_model(config, num_classes)
    check_head(config, sets.train.classes)
    if total_steps(config, sets.train) <= 0:
        raise ConfigError(f"train.duration: got {config.train.duration!r}, wanted at least one step")
    output = local_folder(config.output)
    _reach_mlflow(config.tracking.uri or uri_of_output(output))
    config = settle_on_cluster(config, num_classes, output)
    run = RunFolder.create(config, name)
    config = run.config()  # names the run's copies of plug-ins, which its workers can read
    with held(run.path, "run"):
        record_start(run, config, sets)
        return _run_training(run, config, sets, resume=False)


def resume_training(run: RunFolder, overrides: list[str]) -> Outcome:
    """Continue a run from its last checkpoint, in its folder and its MLflow run.

    Raises:
        ConfigError: where an override changes what may not change, or another process trains the run.
        TrainingError: where the run failed.
    """
    if read_ensemble(run.path) is not None:
        raise ConfigError(f"--resume: {run.name} is an ensemble, wanted one of its members")
    if read_interpolation(run.path) is not None:
        raise ConfigError(f"--resume: {run.name} has interpolated weights, wanted the run that was trained")
    if is_imported(run.path):
        raise ConfigError(
            f"--resume: {run.name} was imported, so there is no training to go on with; "
            f"rtk train RECIPE model.weights={run.place} starts one from its weights"
        )
    stored, sweep = resumed_config(run, overrides), sweep_of(run)
    config = run.located(stored)
    with held(run.path, "run"), held(sweep.path, "sweep") if sweep else nullcontext():
        step = step_reached(run, config.train.select)
        sets = open_for_training(config, DataRecord.read(run.path))
        total = total_steps(config, sets.train)
        if total == step and status_of(run) != "finished" and stored == run.stored_config():
            return _finish(run)
        if total <= step:
            raise ConfigError(
                f"train.duration: got {config.train.duration!r}, the run is at step {step} already"
            )
        _reach_mlflow(tracking_uri(run))
        config = settle_on_cluster(config, len(sets.train.classes), run.path)
        run.change_config(config.model_copy(update={"data": stored.data}), step)
        if step == 0 and run.read_json(ENVIRONMENT) is None:  # killed before it had been written
            record_start(run, config, sets)
        return _run_training(run, config, sets, resume=step > 0)


def _reach_mlflow(uri: str) -> None:
    """Load MLflow and make its database beside what follows: while this process waits for Ray."""
    import_module("ray")  # whole, before a thread imports what it needs too
    reach_early(uri)


def record_start(run: RunFolder, config: RunConfig, sets: RunSets[ImageDataset]) -> None:
    """Write down what a run starts with: versions, hardware, its data, the weights that it is given."""
    weights = config.model.weights
    start = {} if weights is None else {"weights": source_identity(weights)}
    run.write_json(ENVIRONMENT, {**describe_environment(config.plugins), **describe_data(sets), **start})


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
    wanted_scores(config.evaluate, config.model.name)
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
    prepare_workers(*modules_of_workers(config))
    start_ray()
    train, gpus = config.train, use_gpus()
    if train.wait_for_workers is not None:
        wanted = train.workers + spare_units(config, gpus)
        wait_for_units(wanted, gpus, interval_seconds(train.wait_for_workers) or 0.0)
    check_resources(config.worker_counts[0], gpus)
    check_reachable(folder)
    if config.data.stream and not gpus:  # a worker with a GPU holds no CPU
        check_decoding_cpus(config.worker_counts[0])
    if train.zero_stage == "auto":
        config = choose_stage(config, num_classes, worker_memory(train.workers, gpus))
    return config


def _finish(run: RunFolder) -> Outcome:
    """End a run whose driver was lost after its last step had been saved: what is left is to say so."""
    started = time.monotonic()
    with uploaded(run.path), mirrored(run):
        metrics = last_validation(run)
    return Outcome(run, "finished", metrics, time.monotonic() - started)


def _run_training(run: RunFolder, config: RunConfig, sets: RunSets[ImageDataset], resume: bool) -> Outcome:
    import ray

    started = time.monotonic()
    run.clear_stop()
    # MLflow's thread starts first: making its database takes as long as decoding the data.
    with uploaded(run.path), mirrored(run) as mirror, watched(run):
        # There is nothing to save before the workers have begun: an interrupt ends it at once.
        data = load_training_data(config, sets, run.path / SKIPPED_FILE)
        num_classes = len(sets.train.classes)
        job = TrainingJob(run.place, config.model_dump(mode="json"), num_classes, data.train_rows, resume)
        with Interrupts() as interrupts:
            result = watch_workers(job, ray.put(data), interrupts)
        pull_checkpoints(run.checkpoints)
        if result["status"] == "failed":
            raise (RayEndedError if result["message"] == RAY_ENDED else TrainingError)(result["message"])
        if result["status"] == "interrupted":
            mirror.final_status = "KILLED"
        seconds = time.monotonic() - started
    return Outcome(run, result["status"], last_validation(run), seconds, interrupts.signal)
