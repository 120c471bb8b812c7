"""Predictions on disk: Parquet whose metadata say what each column was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.data.decode.pipeline import Selection
from rtk.evaluate.columns import as_lists, as_matrix
from rtk.runs.atomic import replacing

METADATA_KEY = b"rtk"
MATRICES = ("logits", "features")


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Columns of a file: `logits` (N, C), `features` (N, D) and image scores (N,) float32, the rest int64."""
    table = pq.read_table(path)
    return {
        name: as_matrix(table[name], len(table)) if name in MATRICES else table[name].to_numpy()
        for name in table.column_names
    }


@dataclass(frozen=True)
class PredictionsFile:
    """A Parquet file of predictions; its metadata say what each column was made from.

    Attributes:
        path: of the file, which may not be there yet.
        stamp: what `logits` and `features` must have been made from.
    """

    path: Path
    stamp: dict[str, Any]

    def lacking(self, scores: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
        """Whether the predictions are missing, and which of the scores (with their stamps) are."""
        stored = read_stamp(self.path)
        if stored.get("predictions") != self.stamp:
            return True, tuple(scores)
        return False, tuple(name for name, stamp in scores.items() if stored["scores"].get(name) != stamp)

    def write(self, selection: Selection, columns: dict[str, np.ndarray], scores: Mapping[str, Any]) -> None:
        """Write predictions, or add scores to those that are there; a reader never sees half a file."""
        stored: dict[str, Any] = {"predictions": self.stamp, "scores": {}}
        if "logits" in columns:
            matrices = {name: as_lists(torch.from_numpy(columns[name])) for name in MATRICES}
            known = {
                "sample_id": selection.sample_ids(),
                "label": selection.labels(),
                "prediction": columns["logits"].argmax(1),
            }
            table = pa.table({**known, **matrices})
        else:
            stored = read_stamp(self.path)
            table = pq.read_table(self.path)
        for name in scores:
            kept = [column for column in table.column_names if column != name]
            table = table.select(kept).append_column(name, pa.array(columns[name]))
        stored["scores"] |= scores
        metadata = {METADATA_KEY: json.dumps(stored).encode()}
        with replacing(self.path) as partial:
            pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd")


def read_stamp(path: Path) -> dict[str, Any]:
    """What the columns of a predictions file were made from; empty where there is none."""
    if not path.exists():
        return {}
    stamp: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    return stamp
