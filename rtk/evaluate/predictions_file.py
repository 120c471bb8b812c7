"""Predictions on disk: Parquet whose metadata say what each column was made from."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.config.errors import ConfigError
from rtk.data.decode.pipeline import Selection
from rtk.evaluate.columns import as_lists, as_matrix
from rtk.runs.atomic import replacing
from rtk.runs.bounded_parquet import open_bounded
from rtk.runtime.large_arrays import ROWS_AT_A_TIME, empty_array

METADATA_KEY = b"rtk"
MATRICES = ("logits", "features")


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Columns of a file: `logits` (N, C), `features` (N, D) and image scores (N,) float32, the rest int64.

    They may be changed. Large ones lie in files beside this one, not in memory (`rtk.runtime.large_arrays`).

    Raises:
        ConfigError: the file is damaged, or holds columns of other types.
    """
    try:
        return _read_columns(path)
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"{path}: damaged, wanted predictions ({said}); rtk evaluate makes them anew"
        ) from None


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    start = 0
    with open_bounded(path) as file:
        rows = file.metadata.num_rows
        for batch in file.batches(ROWS_AT_A_TIME):
            for name in batch.schema.names:
                column = batch[name]
                found = as_matrix(column, len(batch)) if name in MATRICES else column.to_numpy()
                if name not in columns:
                    columns[name] = empty_array((rows, *found.shape[1:]), found.dtype, path.parent)
                columns[name][start : start + len(batch)] = found
            start += len(batch)
    return columns


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
            known = {"sample_id": selection.sample_ids(), "label": selection.labels()}
            tables = _parts(known, columns)
        else:
            stored, tables = read_stamp(self.path), self._stored_parts(scores)
        stored["scores"] |= scores
        added = {name: columns[name] for name in scores}
        metadata = {METADATA_KEY: json.dumps(stored).encode()}
        with replacing(self.path) as partial:
            _write_parts(partial, _with_columns(tables, added), metadata)

    def _stored_parts(self, without: Container[str]) -> Iterator[pa.Table]:
        with open_bounded(self.path) as file:
            kept = [name for name in file.schema.names if name not in without]
            for batch in file.batches(ROWS_AT_A_TIME, kept):
                yield pa.Table.from_batches([batch])


def _parts(known: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
    """Consecutive rows of predictions."""
    for start in range(0, len(columns["logits"]), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        matrices = {name: as_lists(torch.from_numpy(columns[name][rows])) for name in MATRICES}
        prediction = columns["logits"][rows].argmax(1)
        parts = {name: values[rows] for name, values in known.items()}
        yield pa.table({**parts, "prediction": prediction, **matrices})


def _with_columns(tables: Iterable[pa.Table], added: Mapping[str, np.ndarray]) -> Iterator[pa.Table]:
    """Consecutive tables, each with its rows of further columns."""
    start = 0
    for table in tables:
        rows = slice(start, start + len(table))
        for name, values in added.items():
            table = table.append_column(name, pa.array(values[rows]))
        yield table
        start = rows.stop


def _write_parts(path: Path, tables: Iterator[pa.Table], metadata: Mapping[bytes, bytes]) -> None:
    """A row group each, of which one at a time is in memory."""
    first = next(tables)
    schema = first.schema.with_metadata(metadata)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema))


def read_stamp(path: Path) -> dict[str, Any]:
    """What the columns of a predictions file were made from; empty where there is none."""
    if not path.exists():
        return {}
    try:
        stamp = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    except (pa.ArrowException, OSError, ValueError, RecursionError):
        return {}  # what is damaged was made from nothing that is known, so it is made anew
    return stamp if isinstance(stamp, dict) else {}
