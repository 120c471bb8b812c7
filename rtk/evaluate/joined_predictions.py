"""Predictions of an ensemble from those that its members have kept, where these are whole and of the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from rtk.config.ensemble import Average
from rtk.data.decode.pipeline import Selection
from rtk.evaluate.predict import prediction_files
from rtk.evaluate.predictions_file import read_predictions
from rtk.models.heads import combine_logits
from rtk.runs.checkpoints import CheckpointError, resolve_checkpoint
from rtk.runs.ensemble import Member, checkpoint_identity, read_ensemble
from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import local_folder
from rtk.runtime.large_arrays import ROWS_AT_A_TIME, empty_array


def join_predictions(run: RunFolder, selections: Mapping[str, Selection], checkpoint: str) -> list[str]:
    """Write an ensemble's predictions of those sets that all its members have predicted already.

    Members count whose runs still have the very checkpoint that was joined. What is not written here is
    predicted as of any run.

    Args:
        run: any run; of one that is no ensemble nothing is written.
        selections: data sets by name.
        checkpoint: of the ensemble.

    Returns:
        Names of the sets that were written.
    """
    record = read_ensemble(run.path)
    folders = [] if record is None else [_unchanged(member) for member in record.members]
    if record is None or None in folders:
        return []
    every = [
        prediction_files(folder, selections, member.checkpoint)
        for folder, member in zip(folders, record.members, strict=True)
        if folder is not None
    ]
    written = []
    (run.evaluation / "predictions").mkdir(parents=True, exist_ok=True)
    for name, file in prediction_files(run, selections, checkpoint).items():
        if file.lacking({})[0] and not any(files[name].lacking({})[0] for files in every):
            columns = _joined([files[name].path for files in every], record.average, file.path.parent)
            file.write(selections[name], columns, {})
            written.append(name)
    return written


def _unchanged(member: Member) -> RunFolder | None:
    """The run of a member; None where it is gone, or its checkpoint is another by now."""
    run = RunFolder(local_folder(member.place))
    try:
        folder = resolve_checkpoint(run.checkpoints / member.checkpoint)
        return run if checkpoint_identity(folder) == member.sha256 else None
    except (CheckpointError, OSError):
        return None


def _joined(paths: Sequence[Path], average: Average, folder: Path) -> dict[str, np.ndarray]:
    """`logits` (N, C) and `features` (N, D) of an ensemble; large ones lie in files of `folder`."""
    every = [read_predictions(path) for path in paths]
    rows, width = len(every[0]["logits"]), sum(one["features"].shape[1] for one in every)
    columns = {
        "logits": empty_array(every[0]["logits"].shape, np.float32, folder),
        "features": empty_array((rows, width), np.float32, folder),
    }
    for start in range(0, rows, ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        logits = torch.stack([torch.from_numpy(one["logits"][part]) for one in every])
        columns["logits"][part] = combine_logits(logits, average).numpy()
        columns["features"][part] = np.concatenate([one["features"][part] for one in every], axis=1)
    return columns
