"""What the driver hands to every worker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.config.sections import duration_steps
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.stream import Stream
from rtk.data.order import steps_per_epoch
from rtk.data.sets.of_run import RunSets
from rtk.runs.desk import DeskLine, DistantRun
from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import local_folder

FAILURE_FILE = "failure.json"  # in the run folder: why the workers need not be restarted
Report: TypeAlias = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingData:
    """Decoded images of a run, in Ray's object store.

    Attributes:
        sets: `validation` is always there, given or held out; `mixing` where a term needs mixing pictures;
            of a streamed `train` only the first images, for BatchNorm statistics.
        feed: a streamed training set and the actor that feeds it; None: all of it is in `sets.train`.
    """

    sets: RunSets[ImageArrays]
    feed: tuple[Stream, Any] | None = None

    @property
    def train_rows(self) -> int:
        """Number of training images."""
        return len(self.feed[0] if self.feed else self.sets.train)

    def sample_ids(self) -> np.ndarray:
        """Ids int64 (rows,) of the training images; those of a stream are read from its files."""
        return self.feed[0].selection.sample_ids() if self.feed else self.sets.train.sample_ids


@dataclass(frozen=True)
class TrainingJob:
    """A run as a worker needs it; small, for the images travel by reference.

    Attributes:
        run_path: its folder, or the URI of what that is a working copy of.
        config_tree: its config as plain data.
        num_classes: of its data.
        train_rows: number of training images.
        resume: whether there is a checkpoint to go on from.
        shares_checkpoints: whether each epoch is reported with its checkpoint, which has to be there then.
        desk: who reads and writes in the run's folder (`rtk.runs.desk`); None: all nodes see it.
    """

    run_path: str
    config_tree: dict[str, Any]
    num_classes: int
    train_rows: int
    resume: bool
    shares_checkpoints: bool = False
    desk: DeskLine | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what has been made of it here: the run's folder may be another one on the next node."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @cached_property
    def config(self) -> RunConfig:
        """The typed config; its plug-ins are brought to this node."""
        tree = self.config_tree
        return build_config(tree if self.desk is None else self.desk.with_plugins(tree, self.run.path))

    def with_workers(self, number: int) -> TrainingJob:
        """The job of a group of so many workers, of those that the run may have."""
        train = {**self.config_tree["train"], "workers": number, "min_workers": None}
        return replace(self, config_tree={**self.config_tree, "train": train})

    @cached_property
    def config_hash(self) -> str:
        """SHA-256 of the config, which checkpoints hold."""
        return hashlib.sha256(json.dumps(self.config_tree, sort_keys=True).encode()).hexdigest()

    @property
    def outputs(self) -> int:
        """Logits while the model trains: of the classes, and of the reject class where there is one."""
        return self.num_classes + self.config.model.reject_class

    @cached_property
    def run(self) -> RunFolder:
        """The run's folder."""
        path = local_folder(self.run_path)
        return RunFolder(path) if self.desk is None else DistantRun(path, self.desk)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        config = self.config
        return steps_per_epoch(self.train_rows, config.train.batch_size, config.data.remainder)

    @cached_property
    def total_steps(self) -> int:
        """Optimiser steps in the run."""
        return duration_steps(self.config.train.duration, self.steps_per_epoch)
