"""The data sets of a run as one object: which there are, and where validation images come from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rtk.config.data import GROUPS, DataConfig
from rtk.config.errors import ConfigError
from rtk.config.schema import RunConfig
from rtk.data.order import holdout_split
from rtk.data.sets.builtin import PREFIX, resolve_path
from rtk.data.sets.class_names import with_classes
from rtk.data.sets.dataset import ImageDataset, check_labels, content_hash, open_dataset
from rtk.runs.data_record import NO_RECORD, DataRecord
from rtk.runtime.console import complain

T = TypeVar("T")
U = TypeVar("U")

# What training decodes; the rest is measured on, or tuned on, by an evaluation.
TRAINING = ("train", "validation", "validation_near_ood", "validation_far_ood", "mixing", "outliers")
WITH_CLASSES = ("train", "validation")
LABELLED = (*WITH_CLASSES, "test", "csid", "calibration")


@dataclass(frozen=True)
class RunSets(Generic[T]):
    """Everything a run may know of its data sets: their paths, the opened sets, or their decoded images.

    Attributes:
        train: training images.
        validation: labelled images for model selection; None: they are held out of `train` (`split_train`).
        test: in-distribution test images.
        csid: test sets of the same classes under covariate shift, by name.
        near_ood: near-OOD test sets, by name.
        far_ood: far-OOD test sets, by name.
        validation_near_ood: near-OOD sets of the validation metrics, by name; never test sets.
        validation_far_ood: far-OOD sets of the validation metrics, by name; never test sets.
        validation_ood: OOD images to tune scores and thresholds on.
        calibration: labelled images that thresholds are chosen on; None: those of validation.
        mixing: mixing pictures.
        outliers: images of no class to train on.
    """

    train: T
    validation: T | None = None
    test: T | None = None
    csid: Mapping[str, T] = field(default_factory=dict)
    near_ood: Mapping[str, T] = field(default_factory=dict)
    far_ood: Mapping[str, T] = field(default_factory=dict)
    validation_near_ood: Mapping[str, T] = field(default_factory=dict)
    validation_far_ood: Mapping[str, T] = field(default_factory=dict)
    validation_ood: T | None = None
    calibration: T | None = None
    mixing: T | None = None
    outliers: T | None = None

    @property
    def validation_groups(self) -> dict[str, Mapping[str, T]]:
        """OOD sets of the validation metrics by name, by group (`near`, `far`) that has any."""
        groups = {group: getattr(self, f"validation_{group}_ood") for group in GROUPS}
        return {group: sets for group, sets in groups.items() if sets}

    def items(self) -> Iterator[tuple[str, T]]:
        """Key below `data`, such as `validation_near_ood.halves`, and value of every set that is there."""
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                yield from ((f"{name}.{inner}", one) for inner, one in value.items())
            elif value is not None:
                yield name, value

    def map(self, function: Callable[[str, T], U]) -> RunSets[U]:
        """What a function makes of every key and set, as an object of the same shape."""
        made = {key: function(key, value) for key, value in self.items()}
        return RunSets(**_nested(made))

    def only(self, names: Collection[str]) -> RunSets[T]:
        """The fields of some names; `train` is always among them."""
        kept = {key: one for key, one in self.items() if key.partition(".")[0] in {"train", *names}}
        return RunSets(**_nested(kept))


def _nested(by_key: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `RunSets` from values by key."""
    found: dict[str, Any] = {}
    for key, value in by_key.items():
        name, dot, inner = key.partition(".")
        if dot:
            found.setdefault(name, {})[inner] = value
        else:
            found[name] = value
    return found


def configured_paths(data: DataConfig) -> RunSets[str]:
    """Paths of the data sets that a config names."""
    return RunSets(**{entry.name: getattr(data, entry.name) for entry in fields(RunSets)})


def open_sets(
    config: RunConfig, names: Collection[str], record: DataRecord = NO_RECORD
) -> RunSets[ImageDataset]:
    """Open some of a config's data sets, labels as numbers of the run's classes.

    What is done to labels beyond reading them is said on standard error.

    Args:
        config: of a run.
        names: fields of `RunSets` to open.
        record: of what the run was trained on, which the sets must be; empty for a new run.

    Raises:
        ConfigError: a set cannot be opened, holds other images than are recorded, or has a label or a class
            that is none of the run's; names the key.
    """
    paths = configured_paths(config.data).only(names)
    opened = paths.map(partial(_open, record))
    _check_content(opened, dict(paths.items()), record.hashes)
    classes = record.classes or opened.train.classes
    return opened.map(partial(_labelled, classes, config.data.labels_by == "number"))


def open_training_sets(config: RunConfig, record: DataRecord = NO_RECORD) -> RunSets[ImageDataset]:
    """Open what training decodes, and make sure that the test sets can be opened after it.

    A run that goes on (that has a record) was checked when it began: its test sets may have moved since.

    Raises:
        ConfigError: naming the key, what was got and what was wanted.
    """
    unused = {name for name in ("mixing", "outliers") if not config.objective.needing(name)}
    tested = () if record.hashes else ("test", "csid", "near_ood", "far_ood")
    return open_sets(config, {*TRAINING, *tested} - unused, record).only(TRAINING)


def describe_data(sets: RunSets[ImageDataset]) -> dict[str, Any]:
    """What `environment.json` keeps of the data that a run is trained on: see `DataRecord`."""
    hashes = {key: content_hash(dataset) for key, dataset in sets.items()}
    return {"data": hashes, "classes": list(sets.train.classes), "folder": str(Path.cwd())}


def open_configured(path: str, key: str, need_classes: bool = False) -> ImageDataset:
    """Open the data set that a key of the config names.

    Raises:
        ConfigError: it cannot be opened; names the key.
    """
    with blamed_on(key):
        return open_dataset(resolve_path(path), need_classes=need_classes)


def _open(record: DataRecord, key: str, path: str) -> ImageDataset:
    try:
        return open_configured(path, f"data.{key}", need_classes=key in WITH_CLASSES)
    except ConfigError as error:
        if key not in record.hashes:
            raise
        raise ConfigError(f"{error}; where it has moved to, data.{key}=PATH takes the same content") from None


def _check_content(
    sets: RunSets[ImageDataset], paths: Mapping[str, str], recorded: Mapping[str, str]
) -> None:
    """Refuse images or labels that are not those of a run's training."""
    for key, dataset in sets.items():
        # rtk makes the built-in sets itself, in files that depend on the version of Arrow.
        if key in recorded and not paths[key].startswith(PREFIX):
            found = content_hash(dataset)
            if found != recorded[key]:
                raise ConfigError(
                    f"data.{key}: {dataset.path} holds other images or labels than the run was trained on: "
                    f"got the content hash {found}, wanted {recorded[key]}"
                )


def _labelled(classes: tuple[str, ...], by_number: bool, key: str, dataset: ImageDataset) -> ImageDataset:
    """A set with its labels as numbers of a run's classes, where they are ever used."""
    labelled = key.partition(".")[0] in LABELLED
    return joined_by_name(classes, by_number, f"data.{key}", dataset) if labelled else dataset


def joined_by_name(
    classes: tuple[str, ...], by_number: bool, key: str, dataset: ImageDataset
) -> ImageDataset:
    """A set with its labels as numbers of a run's classes; what is done to them is said on standard error.

    Args:
        classes: of the run.
        by_number: take labels as they are.
        key: what names the set, for messages.
        dataset: as it was opened.

    Raises:
        ConfigError: it has other classes than the run, or a label that is none of them.
    """
    with blamed_on(key):
        try:
            matched, note = with_classes(dataset, classes, by_number)
        except ValueError as error:
            raise ConfigError(
                f"{error}; --labels-by number (data.labels_by) takes labels as they are"
            ) from None
        check_labels(matched, len(classes))
    if note:
        complain(f"{key}: {note}")
    return matched


@contextmanager
def blamed_on(key: str) -> Iterator[None]:
    """Turn a ValueError of the body into a ConfigError that names a key."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def split_train(config: RunConfig, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training set that are trained on, and those held out for validation.

    None are held out where `data.validation` names a set. This is the one place that decides it, for
    training, for what scores are fitted on, and for the length of an epoch.

    Args:
        config: of the run.
        rows: number of training images.
    """
    if config.data.validation is not None:
        return np.arange(rows), np.arange(0)
    own = config.data.validation_seed
    return holdout_split(config.seed if own is None else own, rows, config.data.validation_fraction)


def trained_rows(config: RunConfig, train: ImageDataset) -> int:
    """Number of images that a run is trained on."""
    rows = min(train.rows, config.data.train_rows or train.rows)
    return len(split_train(config, rows)[0])
