"""What a sweep has come to: its best trial, the recipe's own values, and how to train the best in full."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtk.config.overrides import override_text
from rtk.config.search_space import RECIPE_POINT, SearchSpace
from rtk.runs.results import Entry
from rtk.runs.sweep import Sweep
from rtk.tune.results import best_trial, read_trials

RETRAINED = 3  # seeds of `SweepSummary.seeds_command`


@dataclass(frozen=True)
class SweepSummary:
    """A sweep's end.

    Attributes:
        best: the best whole trial by the first objective; None where there is none.
        values: its values of what is searched.
        default: the trial with the recipe's own values; None where the space does not have it tried.
        objectives: names of the metrics that were wanted.
        command: what trains the best values at the recipe's own length and size.
        seeds_command: the same with three seeds that the sweep has not used.
    """

    best: Entry | None
    values: dict[str, Any]
    default: Entry | None
    objectives: list[str]
    command: str | None
    seeds_command: str | None = None

    def plain(self) -> dict[str, Any]:
        """For programs."""
        trials = {"best": self.best, "default": self.default}
        shown = {kind: trial and self._trial(trial) for kind, trial in trials.items()}
        commands = {"command": self.command, "seeds_command": self.seeds_command}
        return {**shown, "values": self.values, **commands}

    def _trial(self, trial: Entry) -> dict[str, Any]:
        metrics = {name: trial.metrics[name] for name in self.objectives if name in trial.metrics}
        told = {"number": trial.attributes["number"], "state": trial.attributes["state"], **metrics}
        seeds = {name: list(trial.replicates[name]) for name in metrics if name in trial.replicates}
        return told | ({"replicates": seeds} if seeds else {})


def summarise(sweep: Sweep) -> SweepSummary:
    """Read it."""
    space, best = sweep.space(), best_trial(sweep)
    numbers = {trial.attributes["number"]: trial for trial in read_trials(sweep)}
    tried = RECIPE_POINT in space.warm_starts  # warm starts are the first trials
    default = numbers.get(space.warm_starts.index(RECIPE_POINT)) if tried else None
    values = {} if best is None else searched_values(space, best.params)
    if best is None:
        return SweepSummary(best, values, default, space.metrics, None)
    words = _words(sweep, best, values)
    first = sweep.config().seed + space.replicates
    fresh = ["--seeds", f"{first}..{first + RETRAINED - 1}", "--name", f"{sweep.name}-best"]
    others = [word for word in words if not word.startswith("seed=")]
    return SweepSummary(best, values, default, space.metrics, _command(words), _command([*others, *fresh]))


def _command(words: Sequence[str]) -> str:
    return " ".join(["rtk train", *map(shlex.quote, words)])


def searched_values(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values of the searched keys, without those whose condition does not hold."""
    values: dict[str, Any] = {}
    for key, parameter in space.space.items():
        if parameter.applies(values):
            values[key] = params[key]
    return values


def _words(sweep: Sweep, best: Entry, values: Mapping[str, Any]) -> list[str]:
    given = sweep.given()
    if not given:  # of an older version of rtk: as long and large as the trial
        given = [str(best.run.path / "config.yaml")]
    return [*given, *(override_text(key, value) for key, value in values.items())]
