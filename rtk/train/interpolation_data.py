"""Images to choose interpolated weights on, and to settle BatchNorm's statistics with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rtk.config.errors import ConfigError
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.pipeline import Selection, decode_datasets, evaluation_selection
from rtk.data.order import epoch_order
from rtk.data.sets.builtin import is_missing
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, configured_paths, open_sets, split_train
from rtk.data.sets.overlap import first_overlap
from rtk.runs.data_record import DataRecord
from rtk.runs.folder import RunFolder
from rtk.runtime.console import progress_bar
from rtk.runtime.ray_session import start_ray

BATCHNORM_IMAGES = 4096  # training images that statistics are re-estimated on, at most
OOD_GROUPS = ("validation_near_ood", "validation_far_ood")
TESTED = ("test", "csid", "near_ood", "far_ood")


def decode_sets(run: RunFolder, config: RunConfig, batchnorm: bool, tune: bool) -> RunSets[ImageArrays]:
    """Decode them; a set that nothing needs is empty.

    `data.validation_ood` counts as a near set where there are no OOD sets for the validation metrics.

    Args:
        run: that was trained.
        config: of the run.
        batchnorm: decode training images, drawn at random.
        tune: decode the validation sets.

    Raises:
        ConfigError: a set is missing, holds other images than were trained on, or is a test set too.
    """
    sets = open_apart(run, config, tune)
    selections = selections_of(config, sets, batchnorm, tune)
    if not selections:
        return RunSets(train=_nothing())
    start_ray()
    with progress_bar("decoding images") as progress:
        arrays = decode_datasets(selections, progress)
    found = sets.map(lambda key, _: arrays.get(key, _nothing()))
    return replace(found, validation=arrays.get("validation", _nothing()))


def selections_of(
    config: RunConfig, sets: RunSets[ImageDataset], batchnorm: bool, tune: bool
) -> Mapping[str, Selection]:
    """What is decoded, by key; `validation` is held out of `train` where there is no such set."""
    train = evaluation_selection(config.data, sets.train, config.data.train_rows)
    kept, held = split_train(config, len(train))
    drawn = np.sort(kept[epoch_order(0, 0, len(kept))[:BATCHNORM_IMAGES]])
    selections = {"train": _only(train, drawn)} if batchnorm else {}
    if tune:
        others = ((key, one) for key, one in sets.items() if key != "train")
        selections |= {key: evaluation_selection(config.data, one) for key, one in others}
        selections.setdefault("validation", _only(train, held))
    return selections


def open_apart(run: RunFolder, config: RunConfig, tune: bool) -> RunSets[ImageDataset]:
    """The training set and, to `tune`, the validation sets, of which none is a test set too; see above."""
    record = DataRecord.read(run.path)
    if not tune:
        return open_sets(config, (), record)
    sets = open_sets(config, ("validation", *OOD_GROUPS), record)
    if not sets.validation_groups and config.data.validation_ood:
        tuning = open_sets(config, ("validation_ood",), record).validation_ood
        assert tuning is not None
        sets = replace(sets, validation_near_ood={"validation_ood": tuning})
    gone = {key.partition(".")[0] for key, path in configured_paths(config.data).items() if is_missing(path)}
    tests = open_sets(config, {*TESTED} - gone, record)
    used = {key: one for key, one in sets.items() if key != "train"}
    found = first_overlap(used, {key: one for key, one in tests.items() if key != "train"})
    if found is not None:
        name, test, share = found
        raise ConfigError(
            f"data.{name}: got images of data.{test} ({share:.0%}), wanted images that nothing is tested on"
        )
    return sets


def _only(selection: Selection, rows: np.ndarray) -> Selection:
    """Some rows of a selection, ascending."""
    out = np.setdiff1d(np.arange(len(selection)), rows)
    return replace(selection, left_out=tuple(int(row) for row in out))


def _nothing() -> ImageArrays:
    return ImageArrays(np.empty((0, 3, 0, 0), np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
