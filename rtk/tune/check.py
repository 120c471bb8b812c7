"""Checks of a search space against a recipe: what would fail in a trial is refused before anything starts."""

from __future__ import annotations

import math

from rtk.config.changes import When, changing_keys, may_change
from rtk.config.data import GROUPS
from rtk.config.errors import ConfigError, unknown
from rtk.config.load import override_config, valid_keys
from rtk.config.schema import RunConfig
from rtk.config.search_space import Parameter, SearchSpace, points
from rtk.data.order import steps_per_epoch
from rtk.data.sets.builtin import is_missing
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, open_sets, trained_rows
from rtk.data.sets.overlap import first_overlap
from rtk.runs.data_record import NO_RECORD, DataRecord
from rtk.train.initial import check_head, check_model
from rtk.train.launch import open_for_training, total_steps


def check_space(space: SearchSpace, config: RunConfig) -> None:
    """Refuse what would fail in a trial: unknown keys, bounds the schema does not take, missing OOD sets.

    Raises:
        ConfigError: naming the key, what was got and what was wanted.
    """
    override_config(config, {"seed": config.seed + space.replicates - 1})
    for key, parameter in space.space.items():
        _check_key(key)
        conditions = {other: values[0] for other, values in parameter.when.items()}
        _check_conditions(key, parameter, space)
        if space.scheduler.name == "pbt":
            _check_may_change(key, parameter)
        for value in parameter.probes():
            try:
                override_config(config, {**conditions, key: value}, "search space")
            except ConfigError as error:
                raise ConfigError(f"space.{key}: with {value!r}: {error}") from None
    _check_warm_starts(space, config)
    for name in space.metrics:
        _check_measured(name, config)
    if space.scheduler.name == "pbt":
        _check_population(space, config)


def _check_key(key: str) -> None:
    known = valid_keys()
    if key not in known and not key.startswith("deepspeed."):
        raise ConfigError(f"space: {unknown('key', key, known)}")
    if not may_change(key, When.TRIAL):
        more = "; replicates: N trains each trial with N seeds" if key == "seed" else ""
        raise ConfigError(
            f"space.{key}: all trials share this key, set it under fixed or as an override{more}"
        )


def _check_population(space: SearchSpace, config: RunConfig) -> None:
    """Under pbt trials take turns in their places and go on from each other's checkpoints."""
    if space.replicates > 1:
        raise ConfigError(
            f"replicates: got {space.replicates}, wanted 1 for scheduler pbt: its trials go on from each "
            "other"
        )
    for key in ("workers", "checkpoint_every"):
        got = getattr(config.train, key)
        if got != 1:
            raise ConfigError(f"train.{key}: got {got}, wanted 1 for scheduler pbt")
    if space.concurrent is not None:
        raise ConfigError(
            f"concurrent: got {space.concurrent}, wanted null: under scheduler pbt all trials run in turns, "
            "as many at a time as resources allow"
        )


def _check_may_change(key: str, parameter: Parameter) -> None:
    if not may_change(key, When.POPULATION):
        raise ConfigError(
            f"space.{key}: scheduler pbt changes values in a running trial, which only these keys take: "
            + ", ".join(changing_keys(When.POPULATION))
        )
    if parameter.when:
        raise ConfigError(f"space.{key}.when: scheduler pbt takes no conditions")


def _check_warm_starts(space: SearchSpace, config: RunConfig) -> None:
    for point in points(space, config):
        for key, value in point.items():
            if key not in space.space:
                raise ConfigError(f"warm_starts: {key} is not searched")
            if not space.space[key].contains(value):
                raise ConfigError(f"warm_starts: {key}: got {value!r}, which its distribution cannot draw")


def _check_conditions(key: str, parameter: Parameter, space: SearchSpace) -> None:
    for other, values in parameter.when.items():
        if other not in space.space or list(space.space).index(other) >= list(space.space).index(key):
            raise ConfigError(f"space.{key}.when: {other!r} is no key that is searched above it")
        for value in values:
            if not space.space[other].contains(value):
                raise ConfigError(f"space.{key}.when: {other} is never {value!r}")


def _check_measured(metric: str, config: RunConfig) -> None:
    for group in GROUPS:
        sets: dict[str, str] = getattr(config.data, f"validation_{group}_ood")
        if metric.endswith(f"_{group}") and not sets:
            raise ConfigError(
                f"objectives.{metric}: needs data.validation_{group}_ood or data.validation_ood, "
                "OOD sets that are not the test's"
            )
        tests = {*config.data.near_ood.values(), *config.data.far_ood.values(), config.data.test}
        for name, path in sets.items():
            if path in tests:
                raise ConfigError(
                    f"data.validation_{group}_ood.{name}: {path!r} is a test set; "
                    "a sweep may only see validation sets"
                )


def open_data(space: SearchSpace, config: RunConfig, record: DataRecord = NO_RECORD) -> RunSets[ImageDataset]:
    """Check everything that can be checked without Ray; the opened data sets that trials share.

    `record` says what the trials before a resume were trained on.
    """
    _refuse_missing_stand_in(config)
    sets = open_for_training(data_config(space, config), record)
    check_model(config, len(sets.train.classes))
    check_head(config, sets.train.classes)
    if not record.hashes:  # else this was done when the sweep began
        _refuse_test_sets(config, sets)
    length, scheduler = epochs(config, sets.train), space.scheduler
    for name, key in (("asha", "grace"), ("pbt", "interval")):
        got = getattr(scheduler, key)
        if scheduler.name == name and got > length:
            raise ConfigError(f"scheduler.{key}: got {got}, wanted at most the {length} epochs of a trial")
    return sets


def _refuse_missing_stand_in(config: RunConfig) -> None:
    """Name the key that was given where the images that stand for validation OOD sets are not there."""
    path = config.data.validation_ood
    used = any(path in getattr(config.data, f"validation_{group}_ood").values() for group in GROUPS)
    if path is not None and used and is_missing(path):
        raise ConfigError(
            f"data.validation_ood: {path} does not exist; rtk data prepare FOLDER makes a set of images that "
            "are of no class and in no test set, data.validation_ood=PATH names it"
        )


def data_config(space: SearchSpace, config: RunConfig) -> RunConfig:
    """Config whose data serves every trial: with the mixing pictures and outliers that any may want."""
    weights = [f"objective.{name}.weight" for name, block in config.objective if block.needs]
    return override_config(config, {weight: 1.0 for weight in weights if weight in space.space})


def _refuse_test_sets(config: RunConfig, sets: RunSets[ImageDataset]) -> None:
    """A validation set with images of a test set would tune on the test, under whatever name."""
    tests = open_sets(config, ("test", *(f"{group}_ood" for group in GROUPS)))
    seen = {key: dataset for key, dataset in sets.items() if key.startswith("validation")}
    tested = {key.rpartition(".")[2]: dataset for key, dataset in tests.items() if key != "train"}
    found = first_overlap(seen, tested)
    if found is not None:
        key, test, share = found
        raise ConfigError(
            f"data.{key}: holds images of the test set {test!r} ({share:.0%} of the smaller set); "
            "a sweep may only see validation sets"
        )


def epochs(config: RunConfig, train: ImageDataset) -> int:
    """Length of a trial.

    Raises:
        ConfigError: where it has no step.
    """
    total = total_steps(config, train)
    if total <= 0:
        raise ConfigError(f"train.duration: got {config.train.duration!r}, wanted at least one step")
    steps = steps_per_epoch(trained_rows(config, train), config.train.batch_size, config.data.remainder)
    return math.ceil(total / steps)
