"""What the workers of a run share: decoded images, PixMix pictures, and the feed of a streamed set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.fs import LocalFileSystem

from rtk.config.schema import RunConfig
from rtk.data.decode.faults import FaultLog
from rtk.data.decode.pipeline import Source, decode_datasets, evaluation_source
from rtk.data.decode.stream import Stream, open_stream, start_feeder
from rtk.data.order import holdout_split
from rtk.data.sets.dataset import ImageDataset
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import PICTURE_MARGIN
from rtk.runtime.console import progress_bar
from rtk.runtime.shared_storage import check_input
from rtk.train.job import TrainingData

FRACTALS = 128
REFERENCE_ROWS = 2048  # of a streamed training set, decoded once for BatchNorm statistics


def load_training_data(config: RunConfig, datasets: dict[str, ImageDataset], skipped: Path) -> TrainingData:
    """Decode what the workers will share; of a streamed training set, only some images.

    Args:
        config: of the run.
        datasets: from `open_datasets`.
        skipped: CSV file for the images that are left out.
    """
    side = config.data.image_size
    picture_side = round(side * PICTURE_MARGIN)
    faults = FaultLog(config.data.on_error, config.data.max_errors, skipped)
    train_source = Source(datasets["train"], config.data.decoded_side, config.data.train_rows)
    rows = min(len(train_source), REFERENCE_ROWS) if config.data.stream else len(train_source)
    sources = {"train": replace(train_source, rows=rows)}
    if "validation" in datasets:
        sources["validation"] = evaluation_source(config.data, datasets["validation"])
    unseen = {group: list(sets) for group, sets in config.data.validation_groups.items()}
    for group, names in unseen.items():
        sources |= {
            f"{group}:{name}": evaluation_source(config.data, datasets[f"{group}:{name}"]) for name in names
        }
    if "mixing" in datasets:
        sources["mixing"] = Source(datasets["mixing"], picture_side)
    if "outliers" in datasets:
        sources["outliers"] = Source(datasets["outliers"], config.data.decoded_side)
    with progress_bar("decoding images") as progress:
        arrays = decode_datasets(sources, progress, faults)
    train, validation = arrays["train"], arrays.get("validation")
    if validation is None:
        kept, held = holdout_split(config.seed, len(train), config.data.validation_fraction)
        train, validation = train.take(kept), train.take(held).cropped(side)
    pictures: np.ndarray | None = None
    if config.objective.regpixmix.weight:
        rendered = "mixing" not in arrays
        pictures = (
            render_fractals(FRACTALS, picture_side, config.seed) if rendered else arrays["mixing"].images
        )
    ood = {group: {name: arrays[f"{group}:{name}"] for name in names} for group, names in unseen.items()}
    feed = start_stream(config, train_source, faults) if config.data.stream else None
    outliers = arrays["outliers"].images if "outliers" in arrays else None
    return TrainingData(train, validation, pictures, outliers, feed, ood)


def start_stream(config: RunConfig, source: Source, faults: FaultLog) -> tuple[Stream, Any]:
    """A streamed training set and the actor that feeds it to the workers.

    Raises:
        ConfigError: where some node, which would decode parts of the set, does not have its files.
    """
    if isinstance(source.dataset.filesystem, LocalFileSystem):
        check_input("data.train", source.dataset.files[0])
    stream = open_stream(source, config.data.shuffle_rows, config.train.batch_size)
    return stream, start_feeder(stream, config.seed, faults)
