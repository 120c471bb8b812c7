"""A sweep from start to end: check, decode the data once, let Ray Tune run the trials of the study."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rtk.config.changes import When, may_change
from rtk.config.errors import ConfigError
from rtk.config.load import build_config, override_config
from rtk.config.overrides import parse_override
from rtk.config.schema import RunConfig
from rtk.config.search_space import SearchSpace, points
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, describe_data
from rtk.runs.data_record import ENVIRONMENT, DataRecord, absolute
from rtk.runs.desk import DeskLine, open_desk
from rtk.runs.folder import RunFolder, held
from rtk.runs.names import free_folder, unique_name
from rtk.runs.stored_checkpoints import pull_checkpoints
from rtk.runs.sweep import Sweep
from rtk.runs.working_copy import local_folder, place_of, store_of
from rtk.runtime.console import progress_bar
from rtk.runtime.environment import describe_environment
from rtk.runtime.ray_session import is_own_session, prepare_workers, start_ray, worker_memory
from rtk.runtime.shared_storage import check_output
from rtk.tracking.status import note_status
from rtk.tracking.sweep_mirror import mirrored_sweep, note_trial
from rtk.tracking.uploading import check_reachable, uploaded
from rtk.train.launch import SKIPPED_FILE
from rtk.train.plan import choose_stage
from rtk.train.training_data import load_training_data
from rtk.train.vitals import watched
from rtk.train.workers import modules_of_workers
from rtk.tune.check import check_space, data_config, epochs, open_data
from rtk.tune.study import DONE, open_study, remaining_trials
from rtk.tune.trial import TrialPlan, run_trial

POPULATION = "pbt"
AtEnd = Callable[[Sweep], Any]
# Read by Ray Tune: the study is the record, so that it need not keep its own up to date.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports its reason and no metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a killed process is replaced, a failure is in the table
    "RAY_AIR_NEW_OUTPUT": "0",
}


def launch_sweep(
    space: SearchSpace,
    config: RunConfig,
    name: str | None = None,
    at_end: AtEnd | None = None,
    given: Sequence[str] = (),
) -> Sweep:
    """Run a new sweep to its end.

    Args:
        space: what is searched.
        config: what all trials start from.
        name: name of the sweep; None: made of the recipe's.
        at_end: called once the trials have ended, before the last files are sent to MLflow.
        given: recipe and overrides as they were typed, for the command that trains the best values in full.

    Raises:
        ValueError: where space, config, data or cluster do not fit; nothing has been started then.
    """
    name = name or unique_name(f"sweep-{config.name}")
    free_folder(name, config.output)
    check_space(space, config)
    sets = open_data(space, config)
    _start_ray(space, config)
    trials = space.concurrent or _places(space, config)
    memory = worker_memory(config.train.workers * trials, _resources(space).get("GPU", 0))
    config = choose_stage(config, len(sets.train.classes), memory)
    sweep = Sweep.create(space, config, name, given)
    with held(sweep.path, "sweep"):
        study = open_study(sweep.path, space)
        for point in points(space, config):
            study.enqueue_trial(point)
        _run(sweep, space, study, sets, at_end)
    return sweep


def resume_sweep(
    sweep: Sweep,
    changes: Mapping[str, Any] | None = None,
    at_end: AtEnd | None = None,
    overrides: Sequence[str] = (),
) -> Sweep:
    """Go on with a sweep: unfinished trials from their last checkpoints, then those not yet begun.

    Args:
        sweep: the sweep.
        changes: other values for `trials`, `concurrent` or `resources`.
        at_end: as of `launch_sweep`.
        overrides: where images are now, `data.train=PATH`.

    Raises:
        ConfigError: where nothing is left to do, another process runs it, or images are not those of before.
    """
    space, config = sweep.space(changes), moved_config(sweep, overrides)
    with held(sweep.path, "sweep"):
        study = open_study(sweep.path, space)
        if not remaining_trials(study, space):
            raise ConfigError(
                f"--resume: all {space.trials} trials of {sweep.name} have ended; --trials N adds more"
            )
        sets = open_data(space, config, DataRecord.read(sweep.path))
        _start_ray(space, config)
        sweep.save(space, config, sweep.given())
        _run(sweep, space, study, sets, at_end)
    return sweep


def moved_config(sweep: Sweep, overrides: Sequence[str]) -> RunConfig:
    """A sweep's config with other places of its images, which are compared by content where they are opened.

    Raises:
        ConfigError: an override would change something else.
    """
    record, values = DataRecord.read(sweep.path), dict(map(parse_override, overrides))
    for key, value in values.items():
        if not (record.is_moved(key, value) or (key.startswith("data.") and may_change(key, When.RESUME))):
            raise ConfigError(
                f"--resume: got {key}, wanted --trials, --concurrent or the place of images (data.train=PATH)"
            )
    places = {key: absolute(value) if isinstance(value, str) else value for key, value in values.items()}
    return override_config(sweep.config(), places)


def _start_ray(space: SearchSpace, config: RunConfig) -> None:
    os.environ.update({name: value for name, value in TUNE_SETTINGS.items() if name not in os.environ})
    prepare_workers(*modules_of_workers(config))
    start_ray(dashboard=config.train.workers > 1)
    if _places(space, config) < 1:
        import ray

        wanted = {kind: count * config.train.workers for kind, count in _resources(space).items()}
        raise ConfigError(
            f"resources: a trial wants {wanted}, this Ray cluster has {ray.cluster_resources()}"
        )
    if space.scheduler.name == POPULATION:  # its trials hand on checkpoints by it, whatever it is a copy of
        check_output(local_folder(config.output))
    else:
        check_reachable(local_folder(config.output))


def _resources(space: SearchSpace) -> dict[str, float]:
    """What one worker of a trial holds."""
    import ray

    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    gpu = space.resources.gpu if space.resources.gpu is not None else float(has_gpus)
    return {"CPU": space.resources.cpu, **({"GPU": gpu} if gpu else {})}


def _places(space: SearchSpace, config: RunConfig) -> int:
    """Trials that the cluster can run at a time."""
    import ray

    present, needed = ray.cluster_resources(), _resources(space)
    if config.data.stream:
        present["CPU"] = present.get("CPU", 0) - 1  # for decoding
    return min(int(present.get(k, 0) / (n * config.train.workers) + 1e-9) for k, n in needed.items())


def _run(
    sweep: Sweep,
    space: SearchSpace,
    study: optuna.Study,
    sets: RunSets[ImageDataset],
    at_end: AtEnd | None,
) -> None:
    import ray

    from rtk.tune.scheduler import build_scheduler
    from rtk.tune.searcher import StudySearcher

    config = sweep.config()
    data = load_training_data(data_config(space, config), sets, sweep.path / SKIPPED_FILE, feed=False)
    environment = {**describe_environment(config.plugins), **describe_data(sets)}
    RunFolder(sweep.path).write_json(ENVIRONMENT, environment)
    desk = _desk(sweep, space)
    plan = TrialPlan(
        path=str(sweep.path) if desk is None else place_of(sweep.path),
        config_tree=config.model_dump(mode="json"),
        environment=environment,
        num_classes=len(sets.train.classes),
        train_rows=data.train_rows,
        is_population=space.scheduler.name == POPULATION,
        replicates=space.replicates,
        resources=_resources(space),
        desk=desk,
    )
    for ended in study.get_trials(deepcopy=False, states=DONE):
        note_trial(sweep.path, ended)  # the driver may have been killed before it could
    folder = RunFolder(sweep.path)
    with (
        uploaded(sweep.path),
        watched(folder),
        mirrored_sweep(sweep.path),
        progress_bar("trials") as progress,
    ):
        searcher = StudySearcher(study, space, lambda trial: _ended(trial, sweep, study, space, progress))
        scheduler = build_scheduler(space, epochs(config, sets.train), study, sweep.path)
        try:
            _fit(sweep, space, plan, ray.put(data), searcher, scheduler)
        except KeyboardInterrupt:
            print(f"stopped: rtk sweep --resume {place_of(sweep.path)} goes on", file=sys.stderr, flush=True)
            raise
        finally:
            for copy in sweep.path.glob("tune/*/checkpoint_*"):  # of a population; its trials have their own
                shutil.rmtree(copy, ignore_errors=True)
        if at_end is not None:
            at_end(sweep)
        _finish(sweep)


def _desk(sweep: Sweep, space: SearchSpace) -> DeskLine | None:
    """By whom trials on nodes that do not see the sweep's folder read and write there; None: all see it."""
    is_copied = store_of(sweep.path) is not None and not is_own_session()
    return open_desk(RunFolder(sweep.path)) if is_copied and space.scheduler.name != POPULATION else None


def _finish(sweep: Sweep) -> None:
    """Have the best trial's checkpoints kept in MLflow.

    Raises:
        RuntimeError: with the first reason, where every trial failed.
    """
    from rtk.tune.results import best_trial, read_trials

    best = best_trial(sweep)
    if best is not None:
        keep = sweep.config().tracking.checkpoints
        pull_checkpoints(best.run.checkpoints)
        note_status(best.run, "FINISHED", keep_checkpoints=keep, state="complete", best="true")
    trials = read_trials(sweep)
    if all(trial.attributes["state"] == "failed" for trial in trials):
        raise RuntimeError(f"all {len(trials)} trials failed, the first: {trials[0].attributes['reason']}")


def _fit(sweep: Sweep, space: SearchSpace, plan: TrialPlan, data: Any, searcher: Any, scheduler: Any) -> None:
    from ray import tune

    workers: int = plan.config_tree["train"]["workers"]
    # A trial of several workers holds no CPU itself, its workers do; Ray wants something to be held.
    resources = plan.resources if workers == 1 else {"memory": 2.0**20}
    trainable = tune.with_parameters(run_trial, plan=plan, data=[data])
    places = _places(space, build_config(plan.config_tree))
    at_a_time: int | None = min(space.concurrent or places, places)
    if space.scheduler.name in ("hyperband", POPULATION):
        at_a_time = None  # the trials that they have paused would count; the resources limit those that run
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=remaining_trials(searcher.study, space),
            max_concurrent_trials=at_a_time,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.path),
            failure_config=tune.FailureConfig(max_failures=space.max_restarts),
            verbose=0,
        ),
    )
    tuner.fit()


def _ended(trial: FrozenTrial, sweep: Sweep, study: optuna.Study, space: SearchSpace, progress: Any) -> None:
    """Note the end of a trial for MLflow, and tell how far the sweep is in a line on standard error."""
    note_trial(sweep.path, trial)
    if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        best = study.best_trials[0].values
        named = {f"best/{metric}": value for metric, value in zip(space.metrics, best, strict=True)}
        RunFolder(sweep.path).append_metrics(trial.number, 0.0, named)
    ended = sum(other.state.is_finished() for other in study.get_trials(deepcopy=False))
    progress(ended, space.trials)
    values = trial.values or trial.user_attrs.get("values") or []
    std = {metric: f" ± {value:.4f}" for metric, value in trial.user_attrs.get("std", {}).items()}
    pairs = zip(space.metrics, values, strict=False)
    shown = ", ".join(f"{metric} {value:.4f}{std.get(metric, '')}" for metric, value in pairs)
    outcome = trial.user_attrs.get("reason", shown)
    line = f"trial {trial.number}: {trial.state.name.lower()}, {outcome} ({ended} of {space.trials} done)"
    print(line, file=sys.stderr, flush=True)
