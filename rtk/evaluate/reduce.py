"""The joint metrics of more predictions than one machine holds, reduced where they lie.

Each block of a Ray dataset becomes a few numbers (the range of its OOD scores) and then its counts on the
published grid (`rtk.metrics.grid`); only these come to the driver, which adds them up.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from rtk.metrics import GridCounts, GridMetrics, ScoreRange
from rtk.metrics.grid import check_confidence
from rtk.runs.bounded_parquet import open_bounded

if TYPE_CHECKING:
    from ray.data import Dataset

_ROWS, _NAME_BYTES = 2**16, 1000  # rows looked at at a time; the most that a name of a set has
_SHAPE = (3, 1001, 1001)
_RANGE_SCHEMA = pa.schema([("low", pa.float64()), ("high", pa.float64()), ("reason", pa.string())])


def check_score_files(filesystem: fs.FileSystem, place: str) -> None:
    """Refuse Parquet that would expand hugely where Ray reads it.

    Args:
        filesystem: where the files are.
        place: a file, or a folder of them.

    Raises:
        ValueError: pages expand to more than they may, or a set or group has a name of a thousand characters.
    """
    is_file = filesystem.get_file_info(place).type == fs.FileType.File
    found = [] if is_file else filesystem.get_file_info(fs.FileSelector(place, recursive=True))
    for file in [place] if is_file else [info.path for info in found if info.path.endswith(".parquet")]:
        with open_bounded(file, filesystem) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                parquet.check(group)
            names = [name for name in ("set", "group") if name in parquet.schema.names]
            texts = [name for name in names if _is_text(parquet.schema.field(name).type)]
            for batch in parquet.batches(_ROWS, texts) if texts else ():
                if any((pc.max(pc.binary_length(batch[name])).as_py() or 0) > _NAME_BYTES for name in texts):
                    raise ValueError(f"{file}: a set or group with a name of over {_NAME_BYTES} bytes")


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def reduce_joint_metrics(scores: Dataset, ood_set: str, confidence: str, ood_score: str) -> GridMetrics:
    """DS-F1, DS-AURC, OOD-F1 and OOD-AURC by the grid method, in two passes over the data.

    Args:
        scores: rows as in a run's `evaluation/scores.parquet`: `set`, `group` (`id` for the in-distribution
            test set), `is_correct` and a column per score.
        ood_set: the `set` to measure against; other OOD sets are skipped.
        confidence: column with the confidence, in [0, 1], larger = more trustworthy.
        ood_score: column with the OOD score, larger = more in-distribution.

    Returns:
        What `ds_f1`, `ds_aurc`, `ood_f1` and `ood_aurc` give with method "grid", to the last bit.

    Raises:
        ValueError: a column is missing, there are no rows of the ID test set or of `ood_set`, NaN, infinite
            OOD scores, or a confidence outside [0, 1].
    """
    wanted = _columns(scores, "set", "group", "is_correct", confidence, ood_score)

    def range_of_block(block: pa.Table) -> pa.Table:
        rows = _rows_of(block, ood_set)
        return _range_or_reason(rows[confidence].to_numpy(), rows[ood_score].to_numpy())

    ranges = wanted.map_batches(range_of_block, batch_size=None, batch_format="pyarrow").take_all()
    score_range = _merged_range(ranges, ood_set)

    def counts_of_block(block: pa.Table) -> pa.Table:
        rows = _rows_of(block, ood_set)
        if not len(rows):
            return _to_cells(np.zeros(_SHAPE, np.int64))
        part = GridCounts.from_arrays(
            rows[confidence].to_numpy(),
            rows[ood_score].to_numpy(),
            rows["is_correct"].to_numpy(),
            pc.not_equal(rows["group"], "id").to_numpy(),
            score_range,
        )
        return _to_cells(part.counts)

    counts = np.zeros(_SHAPE, np.int64)
    cells = wanted.map_batches(counts_of_block, batch_size=None, batch_format="pyarrow")
    for part in cells.iter_batches(batch_size=None, batch_format="pyarrow"):
        _add_cells(counts, part)
    return GridCounts(counts).result()


def ood_sets(scores: Dataset) -> list[str]:
    """Names of the OOD sets of such rows, in order of the alphabet.

    Raises:
        ValueError: a column is missing, or there is no OOD set.
    """

    def names_of_block(block: pa.Table) -> pa.Table:
        return pa.table({"set": pc.unique(block.filter(pc.not_equal(block["group"], "id"))["set"])})

    columns = _columns(scores, "set", "group")
    rows = columns.map_batches(names_of_block, batch_size=None, batch_format="pyarrow").take_all()
    if not rows:
        raise ValueError("scores: got no rows of an OOD set (group near or far), wanted some")
    return sorted({row["set"] for row in rows})


def _columns(scores: Dataset, *names: str) -> Dataset:
    """The rows with these columns only, each once."""
    columns = list(dict.fromkeys(names))
    missing = sorted(set(columns) - set(scores.schema().names))
    if missing:
        raise ValueError(f"scores: got no column {', '.join(missing)}, wanted {', '.join(columns)}")
    return scores.select_columns(columns)


def _range_or_reason(confidence: np.ndarray, ood_score: np.ndarray) -> pa.Table:
    """No row for an empty block, else its range or what is wrong: Ray would wrap an exception in its own."""
    found: list[dict[str, object]] = []
    if ood_score.size:
        try:
            check_confidence(confidence)
            found = [{**asdict(ScoreRange.from_array(ood_score)), "reason": None}]
        except ValueError as error:
            found = [{"low": None, "high": None, "reason": str(error)}]
    return pa.Table.from_pylist(found, _RANGE_SCHEMA)


def _merged_range(rows: list[dict[str, Any]], ood_set: str) -> ScoreRange:
    if not rows:
        raise ValueError(f"scores: got no rows of group 'id' or set {ood_set!r}, wanted both")
    for row in rows:
        if row["reason"] is not None:
            raise ValueError(row["reason"])
    return reduce(ScoreRange.merge, [ScoreRange(row["low"], row["high"]) for row in rows])


def _rows_of(block: pa.Table, ood_set: str) -> pa.Table:
    """Rows of the in-distribution test set and of the OOD set."""
    return block.filter(pc.or_(pc.equal(block["group"], "id"), pc.equal(block["set"], ood_set)))


def _to_cells(counts: np.ndarray) -> pa.Table:
    """Counts as a table of those that are not zero: real predictions crowd into few of the 10^6 cells."""
    flat = counts.ravel()
    cells = np.flatnonzero(flat)
    return pa.table({"cell": cells.astype(np.int32), "count": flat[cells]})


def _add_cells(counts: np.ndarray, part: pa.Table) -> None:
    # Parts of several blocks may come as one batch, so a cell may be there twice.
    np.add.at(counts.reshape(-1), part["cell"].to_numpy(), part["count"].to_numpy())
