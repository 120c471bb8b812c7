"""What became of a sweep's trials, from the study and their run folders."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from rtk.config.load import flatten
from rtk.config.search_space import SearchSpace
from rtk.runs.folder import RunFolder
from rtk.runs.results import Entry, mean_and_std, read_entry
from rtk.runs.sweep import Sweep, replicates_of, trial_name
from rtk.tune.study import open_study

FEWEST_TRIALS = 10  # run to their end, from which importances are told: of fewer they are chance


def read_trials(sweep: Sweep) -> list[Entry]:
    """All trials that have begun, by number.

    Attributes of an entry: `number`, `state` (`complete`, `pruned`, `failed`, `running`), `reason` of a
    failure, `seconds` that it took, and `pareto`: whether no other trial is better in every objective.
    """
    study = open_study(sweep.path, sweep.space())
    begun = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    front = {trial.number for trial in study.best_trials} if _any_complete(study) else set()
    return [_entry(sweep, trial, trial.number in front) for trial in begun]


def best_trial(sweep: Sweep) -> Entry | None:
    """The best whole trial by the first objective; None where there is none."""
    space = sweep.space()
    metric = space.metrics[0]
    sign = 1 if space.objectives[metric] == "min" else -1
    whole = [entry for entry in read_trials(sweep) if entry.attributes["state"] == "complete"]
    return min(whole, key=lambda entry: sign * entry.metrics[metric], default=None)


def importances(study: optuna.Study, space: SearchSpace) -> dict[str, float]:
    """Share of each key in the variance of the first objective (fANOVA), over the trials run to their end.

    Keys with a condition are left out, for they have no value in every trial. Empty where the trials are
    fewer than `FEWEST_TRIALS` or all alike, and for a population, whose trials change their values.
    """
    whole = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if space.scheduler.name == "pbt" or len(whole) < FEWEST_TRIALS:
        return {}
    target = (lambda trial: trial.values[0]) if len(space.metrics) > 1 else None
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    keys = [key for key, parameter in space.space.items() if not parameter.when]
    try:
        found = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=keys, target=target
        )
    except (ValueError, RuntimeError):
        return {}
    return {key: share for key, share in found.items() if math.isfinite(share)}


def _entry(sweep: Sweep, trial: FrozenTrial, is_on_front: bool) -> Entry:
    states = {TrialState.FAIL: "failed"}
    attributes: dict[str, Any] = {
        "number": trial.number,
        "state": states.get(trial.state, trial.state.name.lower()),
        "pareto": is_on_front,
    }
    if trial.duration is not None:
        attributes["seconds"] = trial.duration.total_seconds()
    if "reason" in trial.user_attrs:
        attributes["reason"] = trial.user_attrs["reason"]
    run = _run(sweep, trial)
    if (run.path / "config.yaml").exists():
        entry = read_entry(run, **attributes)
        return _with_replicates(entry) if trial.state == TrialState.COMPLETE else entry
    # Values that the schema refuses together never become a run.
    params = {**dict(flatten(sweep.config().model_dump(mode="json"))), **trial.params}
    return Entry(run, params, {}, {"name": run.name, **attributes})


def _with_replicates(entry: Entry) -> Entry:
    """A whole trial with the metrics of all its seeds, and their means as its own."""
    others = [read_entry(run) for run in replicates_of(entry.run)]
    if not others:
        return entry
    measured = [one.metrics for one in (entry, *others)]
    means = mean_and_std(measured)["mean"]
    return replace(entry, metrics=means, replicates={key: [one[key] for one in measured] for key in means})


def _run(sweep: Sweep, trial: FrozenTrial) -> RunFolder:
    return RunFolder(sweep.path / trial_name(trial.number))


def _any_complete(study: optuna.Study) -> bool:
    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
