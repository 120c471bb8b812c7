"""The model of a trained run, as evaluation and export use it."""

from __future__ import annotations

import torch

from rtk.models import Classifier, build_model
from rtk.models.ensemble import build_ensemble
from rtk.runs.ensemble import read_ensemble
from rtk.runs.folder import RunFolder
from rtk.train.checkpoint import class_count
from rtk.train.shard_reader import load_saved_weights


def load_model(run: RunFolder, checkpoint: str = "best") -> Classifier:
    """The classifier of a run in evaluation mode: averaged weights where the run kept an average.

    Of an ensemble it is all members as one.

    Raises:
        CheckpointError: where the run has no such checkpoint.
    """
    folder = run.checkpoints / checkpoint
    config = run.config()
    size, num_classes = config.data.image_size, class_count(folder)
    ensemble = read_ensemble(run.path)
    if ensemble is None:
        model = build_model(config.model, num_classes, size)
    else:
        model = build_ensemble(ensemble.config, num_classes, size)
    load_saved_weights(folder, model)
    if config.train.channels_last:
        model.memory_format = torch.channels_last
    return model.eval()
