"""Population-based training: trials that are behind go on from those ahead, with values near theirs.

Jaderberg et al., arXiv 1711.09846, by Ray Tune's scheduler. A trial's run folder goes on with the other's
weights and its own new values; `config.until-STEP.yaml` and the metrics `pbt/*` say what it had when.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from rtk.config.load import flatten
from rtk.config.schema import RunConfig
from rtk.config.search_space import Parameter, SearchSpace, nearest
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.sweep import trial_name
from rtk.train.saving import adopt_checkpoint


class Population(PopulationBasedTraining):
    """Ray Tune's scheduler, with new values kept within the search space.

    A trial that fails, as one does whose loss is not finite, is not brought back.

    Args:
        space: search space; its sampler draws the first values of every trial.
        folder: the sweep's.
    """

    def __init__(self, space: SearchSpace, folder: Path) -> None:
        self.space, self.folder = space, folder
        metric = space.metrics[0]
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode=space.objectives[metric],
            perturbation_interval=space.scheduler.interval,
            quantile_fraction=space.scheduler.quantile,
            hyperparam_mutations={"values": {key: _domain(p) for key, p in space.space.items()}},
            log_config=False,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Take a trial in, although a searcher proposed it.

        Ray refuses searchers, for they would learn from values that are the trial's no more; the study does
        not hear of a population's new values, only of its results.
        """
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
        run = RunFolder(self.folder / trial_name(trial.config["number"]))
        if (run.path / "config.yaml").exists():  # of a resumed sweep: its values may not be the first ones
            now = dict(flatten(run.config_tree()))
            trial.config["values"] = {key: now[key] for key in self.space.space}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let a trial go on, pause it for another one's turn, or give it another's weights."""
        if "failed" in result or result["finished"]:  # nothing is left to train
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        self._prune(tune_controller.get_trials())
        return decision

    def _prune(self, trials: list[Any]) -> None:
        """Delete copies of checkpoints that no trial goes on from; Ray Tune would go by their age alone."""
        known = [(trial.checkpoint, self._trial_state[trial].last_checkpoint) for trial in trials]
        used = {Path(found.path) for pair in known for found in pair if isinstance(found, tune.Checkpoint)}
        for newest in used:  # a newer one may not have been told of yet
            for copy in newest.parent.glob("checkpoint_*"):
                if copy.name < newest.name and copy not in used:
                    shutil.rmtree(copy, ignore_errors=True)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, operations = super()._get_new_config(trial, trial_to_clone)
        values = {key: nearest(self.space.space[key], value) for key, value in config["values"].items()}
        return {**config, "number": trial.config["number"], "values": values}, operations


def _domain(parameter: Parameter) -> Any:
    """Ray Tune's distribution, from which a value is drawn anew one time in four."""
    if parameter.choice is not None:
        return list(parameter.choice)
    if parameter.randint is not None:
        low, high = parameter.randint
        return tune.randint(low, high + 1)
    return (tune.loguniform if parameter.loguniform else tune.uniform)(*parameter.bounds)


def report_checkpoint(run: RunFolder, result: dict[str, Any]) -> None:
    """Report an epoch together with its checkpoint, from which other trials may go on."""
    tune.report(result, checkpoint=shared_checkpoint(run, result["epoch"]))


def shared_checkpoint(run: RunFolder, epoch: int) -> tune.Checkpoint:
    """A trial's last checkpoint as Ray Tune hands it on, with its origin."""
    checkpoint = tune.Checkpoint.from_directory(resolve_checkpoint(run.checkpoints / "last"))
    checkpoint.set_metadata({"run": run.name, "epoch": epoch})
    return checkpoint


def take_over(
    run: RunFolder, checkpoint: tune.Checkpoint | None, config: RunConfig, values: dict[str, Any]
) -> RunConfig:
    """Config that a trial goes on with, after it has taken over another trial's weights where it was told to.

    Args:
        run: the trial's folder.
        checkpoint: what Ray Tune has the trial go on from: its own, another's, or None at its first start.
        config: config with the values that Ray Tune holds for the trial.
        values: those values by key.
    """
    about: dict[str, Any] = checkpoint.get_metadata() if checkpoint else {}
    if checkpoint is None or about.get("run", run.name) == run.name:
        return run.config()  # of the trial as it was when it was paused, or when the driver was killed
    with checkpoint.as_directory() as folder:
        step = adopt_checkpoint(Path(folder), run.checkpoints / "last")
    _forget_after(run, step)
    run.change_config(config, step)
    numbers = {f"pbt/{key}": float(v) for key, v in values.items() if isinstance(v, int | float)}
    donor = int(about["run"].rpartition("-")[2])
    run.append_metrics(step, about["epoch"], {"pbt/taken_from": donor, **numbers})
    return config


def _forget_after(run: RunFolder, step: int) -> None:
    """Forget what a trial was beyond a step, and what it took over there before."""
    run.drop_metrics_after(step, and_at="pbt/")
    for path in run.path.glob("config.until-*.yaml"):
        if int(path.stem.rpartition("-")[2]) > step:
            path.unlink()
    best = run.read_json("best.json")
    if best is not None and best["step"] > step:
        (run.path / "best.json").unlink()
