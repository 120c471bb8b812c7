"""What Ray Tune asks for trials and tells of their results: the study, by way of a searcher."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from rtk.config.search_space import SearchSpace
from rtk.tune.study import draw


class StudySearcher(Searcher):
    """Hands out trials of a study and writes down what became of them.

    Args:
        study: study of the sweep; trials that it holds as running are handed out first.
        space: search space.
        on_end: called with every trial that has ended.
    """

    def __init__(
        self, study: optuna.Study, space: SearchSpace, on_end: Callable[[FrozenTrial], None]
    ) -> None:
        super().__init__(metric=space.metrics, mode=list(space.objectives.values()))
        self.study, self.space, self.on_end = study, space, on_end
        self.unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        self.trials: dict[str, Trial] = {}
        self.last: dict[str, Mapping[str, Any]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Number and values of the next trial."""
        left = self.unfinished
        trial = Trial(self.study, left.pop(0)._trial_id) if left else self.study.ask()
        self.trials[trial_id] = trial
        return {"number": trial.number, "values": draw(trial, self.space)}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Note an epoch's value, which the sampler learns from if the trial is stopped early."""
        self.last[trial_id] = result
        # A population's trials go back to earlier epochs, which the study would not take twice.
        is_population = self.space.scheduler.name == "pbt"
        if len(self.space.metrics) == 1 and "failed" not in result and not is_population:
            self.trials[trial_id].report(result[self.space.metrics[0]], result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Note how a trial ended: complete, stopped early, or failed with its reason."""
        trial, last = self.trials.pop(trial_id), self.last.pop(trial_id, {})
        result = result or ({} if error else last)  # HyperBand stops paused trials, without their result
        values = [result.get(metric, math.nan) for metric in self.space.metrics]
        if error or "failed" in result:
            self._fail(trial, result.get("failed", "its process died too often"))
        elif not all(map(math.isfinite, values)):
            named = zip(self.space.metrics, values, strict=True)
            self._fail(trial, ", ".join(f"{metric} is {value}" for metric, value in named))
        elif result.get("finished"):
            if self.space.replicates > 1:
                trial.set_user_attr("std", {m: result[f"std/{m}"] for m in self.space.metrics})
            self.study.tell(trial, values)
        else:
            trial.set_user_attr("values", values)
            known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
            if (
                len(values) == 1 and result["epoch"] not in known
            ):  # Ray Tune tells of the last epoch here only
                trial.report(values[0], result["epoch"])
            self.study.tell(trial, state=TrialState.PRUNED)
        self.on_end(self.study.trials[trial.number])

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
