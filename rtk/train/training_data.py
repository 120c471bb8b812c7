"""What the workers of a run share: decoded images, mixing pictures, and the feed of a streamed set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from pyarrow.fs import LocalFileSystem

from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.faults import FaultLog
from rtk.data.decode.pipeline import Selection, decode_datasets, evaluation_selection
from rtk.data.decode.stream import Stream, open_stream, start_feeder
from rtk.data.sets.dataset import ImageDataset
from rtk.data.sets.of_run import RunSets, split_train
from rtk.data.views.fractals import render_fractals
from rtk.runtime.console import progress_bar
from rtk.runtime.shared_storage import check_input
from rtk.train.job import TrainingData

FRACTALS = 128
REFERENCE_ROWS = 2048  # of a streamed training set, decoded once for BatchNorm statistics


def load_training_data(
    config: RunConfig, sets: RunSets[ImageDataset], skipped: Path, feed: bool = True
) -> TrainingData:
    """Decode what the workers will share; of a streamed training set, only some images.

    Args:
        config: of the run.
        sets: opened by `open_training_sets`.
        skipped: CSV file for the images that are left out.
        feed: whether a streamed set gets its feeder here; else by `with_own_feed`.
    """
    side = config.data.image_size
    faults = FaultLog(config.data.on_error, config.data.max_errors, skipped)
    selections = sets.map(partial(_selection, config))
    whole = selections.train
    if config.data.stream:
        selections = replace(selections, train=whole.first(min(len(whole), REFERENCE_ROWS)))
    with progress_bar("decoding images") as progress:
        arrays = decode_datasets(dict(selections.items()), progress, faults)
    decoded = selections.map(lambda key, _: arrays[key])
    if decoded.validation is None:
        kept, held = split_train(config, len(decoded.train))
        validation = decoded.train.take(held).cropped(side)
        decoded = replace(decoded, train=decoded.train.take(kept), validation=validation)
    if decoded.mixing is None and config.objective.needing("mixing"):
        decoded = replace(decoded, mixing=_fractals(config))
    if not config.data.stream:
        return TrainingData(decoded)
    stream = _find_stream(config, whole)
    return TrainingData(decoded, (stream, start_feeder(stream, config.seed, faults) if feed else None))


def with_own_feed(data: TrainingData, config: RunConfig, skipped: Path) -> TrainingData:
    """The same data with a feeder that one run has to itself: each reads at a pace of its own."""
    if data.feed is None:
        return data
    stream = _find_stream(config, data.feed[0].selection)  # in windows of this run's batches
    faults = FaultLog(config.data.on_error, config.data.max_errors, skipped)
    return replace(data, feed=(stream, start_feeder(stream, config.seed, faults)))


def _selection(config: RunConfig, key: str, dataset: ImageDataset) -> Selection:
    """How a data set of a run is decoded."""
    data = config.data
    if key in ("train", "mixing", "outliers"):
        side = data.mixing_side if key == "mixing" else data.decoded_side
        rows = data.train_rows if key == "train" else None
        return Selection(dataset, side, rows, exif=data.exif, jpeg=data.jpeg)
    return evaluation_selection(data, dataset)


def _fractals(config: RunConfig) -> ImageArrays:
    """Mixing pictures where `data.mixing` names none."""
    pictures = render_fractals(FRACTALS, config.data.mixing_side, config.seed)
    return ImageArrays(pictures, np.zeros(FRACTALS, np.int64), np.arange(FRACTALS))


def _find_stream(config: RunConfig, selection: Selection) -> Stream:
    """A training set as a stream.

    Raises:
        ConfigError: where some node, which would decode parts of the set, does not have its files.
    """
    if isinstance(selection.dataset.filesystem, LocalFileSystem):
        check_input("data.train", selection.dataset.files[0])
    return open_stream(selection, config.data.shuffle_rows, config.train.batch_size)
