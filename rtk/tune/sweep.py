"""A sweep from start to end: check, decode the data once, let Ray Tune run the trials of the study."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from rtk.config.load import ConfigError, build_config, override_config
from rtk.config.schema import RunConfig
from rtk.console import progress_bar
from rtk.data.catalog import resolve_path
from rtk.data.dataset import ImageDataset, content_hash, open_dataset
from rtk.data.epochs import steps_per_epoch
from rtk.environment import describe_environment
from rtk.mirror import SWEEP_FILE, note_status
from rtk.plan import choose_stage
from rtk.ray_session import start_ray, worker_memory
from rtk.run_folder import RunFolder, unique_name
from rtk.train.initial import check_model
from rtk.train.launch import SKIPPED_FILE, load_training_data, open_datasets, total_steps, validation_ood
from rtk.tune.mirror import mirrored_sweep, note_trial
from rtk.tune.space import SearchSpace, check_space, parse_space, points
from rtk.tune.study import DONE, open_study, remaining_trials
from rtk.tune.trial import TrialPlan, run_trial

REPORT = "report.html"
# Read by Ray Tune: the study is the record, so that it need not keep its own up to date.
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports its reason and no metric
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # for a stopped trial of several workers to end
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a killed process is replaced, a failure is in the table
    "RAY_AIR_NEW_OUTPUT": "0",
}


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder `runs/NAME` with `sweep.yaml`, the study's journal and a run folder a trial."""

    path: Path

    @classmethod
    def create(cls, space: SearchSpace, config: RunConfig, name: str) -> Sweep:
        """Make the folder; the trials' runs go into it.

        Raises:
            ConfigError: where it is there already or cannot be written.
        """
        sweep = cls(Path(config.output).absolute() / name)
        config = override_config(config, {"output": str(sweep.path)})
        try:
            sweep.path.mkdir(parents=True)
            sweep.save(space, config)
        except FileExistsError:
            raise ConfigError(f"--name: {sweep.path} exists already; --resume {name} continues it") from None
        except OSError as error:
            raise ConfigError(f"output: cannot write to {config.output!r} ({error.strerror})") from None
        return sweep

    @classmethod
    def open(cls, name: str | Path, output: str = "runs") -> Sweep:
        """The folder of an existing sweep, by path or by name under `output`.

        Raises:
            ConfigError: where there is no such sweep.
        """
        for path in (Path(name), Path(output) / name):
            if (path / SWEEP_FILE).is_file():
                return cls(path.absolute())
        raise ConfigError(f"sweep: got {str(name)!r}, wanted a sweep's folder or its name under {output}/")

    @property
    def name(self) -> str:
        """Name of the sweep, its folder and its MLflow run."""
        return self.path.name

    def space(self, changes: Mapping[str, Any] | None = None) -> SearchSpace:
        """The search space, with other values for some of its top-level keys."""
        return parse_space({**self._tree()["space"], **(changes or {})}, str(self.path / SWEEP_FILE))

    def config(self) -> RunConfig:
        """Config that the trials' values are laid over."""
        return build_config(self._tree()["config"])

    def save(self, space: SearchSpace, config: RunConfig) -> None:
        """Write `sweep.yaml`, whole or not at all."""
        tree = {"space": space.model_dump(mode="json"), "config": config.model_dump(mode="json")}
        partial = self.path / f"{SWEEP_FILE}.partial"
        partial.write_text(yaml.safe_dump(tree, sort_keys=False))
        partial.replace(self.path / SWEEP_FILE)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Within it, no other process may run the sweep; the lock goes with the process.

        Raises:
            ConfigError: where another one does.
        """
        lock = FileLock(self.path / ".driver.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ConfigError(f"sweep: {self.name} is being run by another process") from None
        try:
            yield
        finally:
            lock.release()

    def _tree(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / SWEEP_FILE).read_text())


def launch_sweep(space: SearchSpace, config: RunConfig, name: str | None = None) -> Sweep:
    """Run a new sweep to its end.

    Args:
        space: what is searched.
        config: what all trials start from.
        name: name of the sweep; None: made of the recipe's.

    Raises:
        ValueError: where space, config, data or cluster do not fit; nothing has been started then.
    """
    check_space(space, config)
    datasets = _open(space, config)
    _start_ray(space, config)
    trials = space.concurrent or _places(space, config)
    memory = worker_memory(config.train.workers * trials, _resources(space).get("GPU", 0))
    config = choose_stage(config, len(datasets["train"].classes), memory)
    sweep = Sweep.create(space, config, name or unique_name(f"sweep-{config.name}"))
    study = open_study(sweep.path, space)
    for point in points(space, config):
        study.enqueue_trial(point)
    _run(sweep, space, study, datasets)
    return sweep


def resume_sweep(sweep: Sweep, changes: Mapping[str, Any] | None = None) -> Sweep:
    """Go on with a sweep: unfinished trials from their last checkpoints, then those not yet begun.

    Args:
        sweep: the sweep.
        changes: other values for `trials`, `concurrent` or `resources`.

    Raises:
        ConfigError: where nothing is left to do.
    """
    space, config = sweep.space(changes), sweep.config()
    study = open_study(sweep.path, space)
    if not remaining_trials(study, space):
        raise ConfigError(
            f"--resume: all {space.trials} trials of {sweep.name} have ended; --trials N adds more"
        )
    datasets = _open(space, config)
    _start_ray(space, config)
    sweep.save(space, config)
    _run(sweep, space, study, datasets)
    return sweep


def _open(space: SearchSpace, config: RunConfig) -> dict[str, ImageDataset]:
    """Everything that can be checked without Ray, and the opened data sets."""
    if config.data.stream:
        raise ConfigError("data.stream: got true, wanted false: a sweep's trials share the decoded images")
    datasets = open_datasets(_data_config(space, config))
    check_model(config, len(datasets["train"].classes))
    _refuse_test_sets(config, datasets)
    epochs = _epochs(config, datasets)
    if space.scheduler.name == "asha" and space.scheduler.grace > epochs:
        raise ConfigError(
            f"scheduler.grace: got {space.scheduler.grace}, wanted at most the {epochs} epochs of a trial"
        )
    return datasets


def _data_config(space: SearchSpace, config: RunConfig) -> RunConfig:
    """Config whose data serves every trial: with the pictures and outliers that any of them may want."""
    weights = ("objective.regpixmix.weight", "objective.openmix.weight")
    return override_config(config, {weight: 1.0 for weight in weights if weight in space.space})


def _refuse_test_sets(config: RunConfig, datasets: Mapping[str, ImageDataset]) -> None:
    """A validation set with the content of a test set would tune on the test, under whatever name."""
    paths = {**config.data.near_ood, **config.data.far_ood}
    paths |= {"test": config.data.test} if config.data.test else {}
    tests = {content_hash(open_dataset(resolve_path(p), need_classes=False)): n for n, p in paths.items()}
    seen = {"validation": datasets["validation"]} if "validation" in datasets else {}
    for group, sets in validation_ood(config).items():
        seen |= {f"validation_{group}_ood.{name}": datasets[f"{group}:{name}"] for name in sets}
    for key, dataset in seen.items():
        test = tests.get(content_hash(dataset))
        if test is not None:
            raise ConfigError(
                f"data.{key}: holds the images of the test set {test!r}; a sweep may only see validation sets"
            )


def _epochs(config: RunConfig, datasets: dict[str, ImageDataset]) -> int:
    total = total_steps(config, datasets)
    if total <= 0:
        raise ConfigError(f"train.duration: got {config.train.duration!r}, wanted at least one step")
    rows = min(datasets["train"].rows, config.data.train_rows or datasets["train"].rows)
    return math.ceil(total / steps_per_epoch(rows, config.train.batch_size, config.data.remainder))


def _start_ray(space: SearchSpace, config: RunConfig) -> None:
    os.environ.update({name: value for name, value in TUNE_SETTINGS.items() if name not in os.environ})
    start_ray(dashboard=config.train.workers > 1)
    if _places(space, config) < 1:
        import ray

        wanted = {kind: count * config.train.workers for kind, count in _resources(space).items()}
        raise ConfigError(
            f"resources: a trial wants {wanted}, this Ray cluster has {ray.cluster_resources()}"
        )


def _resources(space: SearchSpace) -> dict[str, float]:
    """What one worker of a trial holds."""
    import ray

    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    gpu = space.resources.gpu if space.resources.gpu is not None else float(has_gpus)
    return {"CPU": space.resources.cpu, **({"GPU": gpu} if gpu else {})}


def _places(space: SearchSpace, config: RunConfig) -> int:
    """Trials that the cluster can run at a time."""
    import ray

    present = ray.cluster_resources()
    workers = config.train.workers
    return min(int(present.get(k, 0) / (n * workers) + 1e-9) for k, n in _resources(space).items())


def _run(sweep: Sweep, space: SearchSpace, study: optuna.Study, datasets: dict[str, ImageDataset]) -> None:
    import ray

    from rtk.tune.scheduler import build_scheduler
    from rtk.tune.searcher import StudySearcher

    config = sweep.config()
    data = load_training_data(_data_config(space, config), datasets, sweep.path / SKIPPED_FILE)
    hashes = {name: content_hash(dataset) for name, dataset in datasets.items()}
    environment = {**describe_environment(), "data": hashes}
    RunFolder(sweep.path).write_json("environment.json", environment)
    plan = TrialPlan(
        path=str(sweep.path),
        config_tree=config.model_dump(mode="json"),
        environment=environment,
        num_classes=len(datasets["train"].classes),
        train_rows=data.train_rows,
        resources=_resources(space),
    )
    for ended in study.get_trials(deepcopy=False, states=DONE):
        note_trial(sweep.path, ended)  # the driver may have been killed before it could
    with sweep.driven(), mirrored_sweep(sweep.path), progress_bar("trials") as progress:
        searcher = StudySearcher(study, space, lambda trial: _ended(trial, sweep, study, space, progress))
        scheduler = build_scheduler(space, _epochs(config, datasets), study)
        _fit(sweep, space, plan, ray.put(data), searcher, scheduler)
        _finish(sweep)


def _finish(sweep: Sweep) -> None:
    """Leave a page about the sweep beside it, and have the best trial's checkpoints kept in MLflow.

    Raises:
        RuntimeError: with the first reason, where every trial failed.
    """
    from rtk.compare.compare import compare
    from rtk.compare.page import write_page
    from rtk.tune.results import best_trial, read_trials

    found = compare(sweep=str(sweep.path))
    about = (found.title, found.groups, found.metrics, found.differences, found.space, found.importances)
    write_page(sweep.path / "evaluation" / REPORT, *about)
    best = best_trial(sweep)
    if best is not None:
        keep = sweep.config().tracking.checkpoints
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
    if space.scheduler.name == "hyperband":
        at_a_time = None  # the trials that it has paused would count; the resources limit those that run
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
    shown = ", ".join(f"{metric} {value:.4f}" for metric, value in zip(space.metrics, values, strict=False))
    outcome = trial.user_attrs.get("reason", shown)
    line = f"trial {trial.number}: {trial.state.name.lower()}, {outcome} ({ended} of {space.trials} done)"
    print(line, file=sys.stderr, flush=True)
