"""The record of a sweep: an Optuna study in a journal file.

The journal is appended to at every proposal and every result, so a killed driver loses nothing: a
trial is in it before it starts, and those that were running are handed out again on resume.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from rtk.config.search_space import Parameter, SamplerConfig, SearchSpace

JOURNAL = "study.journal"
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_study(folder: Path, space: SearchSpace) -> optuna.Study:
    """The study of a sweep's folder, made where it is not there yet."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    directions = {"min": "minimize", "max": "maximize"}
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
        study_name="sweep",  # not the folder's, which may be renamed
        directions=[directions[direction] for direction in space.objectives.values()],
        load_if_exists=True,
    )
    # A resumed sweep must not draw the same values again.
    study.sampler = build_sampler(space.sampler, seed_offset=len(study.trials))
    return study


def build_sampler(config: SamplerConfig, seed_offset: int = 0) -> BaseSampler:
    """Optuna's sampler of a config."""
    seed = _word(config.seed + seed_offset)
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=config.population)
    if config.name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # `group` serves conditional keys; running trials count as bad ones, so that those proposed at the
        # same time differ.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=config.startup, multivariate=True, group=True, constant_liar=True
        )


def _word(seed: int) -> int:
    """A seed as Optuna's samplers take it, of 32 bits; larger ones are hashed, none is cut off."""
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])


def draw(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """Values of all keys whose conditions hold, in the order of the space."""
    values: dict[str, Any] = {}
    for key, parameter in space.space.items():
        if parameter.applies(values):
            values[key] = _suggest(trial, key, parameter)
    return values


def _suggest(trial: Trial, key: str, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return trial.suggest_categorical(key, parameter.choice)
    if parameter.randint is not None:
        return trial.suggest_int(key, *parameter.randint)
    low, high = parameter.bounds
    step = parameter.quniform[2] if parameter.quniform is not None else None
    drawn = trial.suggest_float(key, low, high, step=step, log=parameter.loguniform is not None)
    return float(drawn)  # a whole number of a warm start stays an int otherwise


def remaining_trials(study: optuna.Study, space: SearchSpace) -> int:
    """Trials that are still to be run, the unfinished ones included."""
    ended = sum(trial.state in DONE for trial in study.get_trials(deepcopy=False))
    return max(0, space.trials - ended)
