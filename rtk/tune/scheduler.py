"""Which trials Ray Tune stops early, or has go on from others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler, TrialScheduler

from rtk.config.search_space import SearchSpace
from rtk.tune.population import Population


def build_scheduler(space: SearchSpace, epochs: int, study: optuna.Study, folder: Path) -> TrialScheduler:
    """Ray Tune's scheduler of a space, steered by the first objective.

    Args:
        space: search space.
        epochs: length of a trial.
        study: trials so far, with which ASHA's new ones are compared.
        folder: the sweep's, whose runs say what values a population's trials have.
    """
    if space.scheduler.name == "none":
        return FIFOScheduler()
    if space.scheduler.name == "pbt":
        return Population(space, folder)
    metric = space.metrics[0]
    common: dict[str, Any] = {"time_attr": "epoch", "metric": metric, "mode": space.objectives[metric]}
    # A trial that has reached its last epoch has finished, and is not to be judged once more.
    common |= {"max_t": epochs, "reduction_factor": space.scheduler.reduction, "stop_last_trials": False}
    if space.scheduler.name == "hyperband":
        return _HyperBand(**common)
    scheduler = ASHAScheduler(**common, grace_period=space.scheduler.grace)
    _replay(scheduler, metric, study)
    return scheduler


class _HyperBand(HyperBandScheduler):
    """HyperBand that lets a failed trial end, which reports a reason and no metric."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "failed" in result:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


def _replay(scheduler: ASHAScheduler, metric: str, study: optuna.Study) -> None:
    """Tell ASHA the results of a sweep that is resumed, so that its rungs are as before."""
    for frozen in study.get_trials(deepcopy=False):
        trial = SimpleNamespace(trial_id=f"earlier-{frozen.number}")
        if frozen.intermediate_values:
            scheduler.on_trial_add(None, trial)
        for epoch, value in sorted(frozen.intermediate_values.items()):
            scheduler.on_trial_result(None, trial, {"epoch": epoch, metric: value})
