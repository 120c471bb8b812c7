"""Training sets larger than memory: decoded anew in every epoch, window by window, by Ray Data.

The row groups of the Parquet files are permuted, and the stream of their rows is cut into windows of some
thousand rows. A window is decoded into one array in Ray's object store, where every worker of a node maps
the same memory, takes its share of each batch and finds mixing partners. The order is a function of (seed,
epoch), so a stream can be entered at any window, and does not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.faults import FaultLog
from rtk.data.decode.pipeline import Selection, decode_block, encoded_block, place
from rtk.data.image import BadImageError
from rtk.data.order import group_order, window_size
from rtk.data.sets.dataset import ImageDataset
from rtk.runs.bounded_parquet import open_bounded

NAME = "train"
ROWS_PER_READ = 128  # decoded at 224 pixels: 19 MB
BLOCK_BYTES = 32 * 2**20  # that a decoding task hands on at a time
BUFFER_BYTES = 256 * 2**20  # decoded rows in the object store that wait for their window
WINDOWS_KEPT = 2  # the one that workers train on and the next


@dataclass(frozen=True)
class RowGroup:
    """Part of a Parquet file that is read in one go: `rows` rows, the first is row `start` of the set."""

    file: str
    group: int
    start: int
    rows: int


@dataclass(frozen=True)
class Stream:
    """A training set to stream, in windows of `window` rows: whole batches of `batch` rows."""

    selection: Selection
    groups: tuple[RowGroup, ...]
    window: int
    batch: int

    def __len__(self) -> int:
        return len(self.selection)

    @property
    def windows(self) -> int:
        """Windows of an epoch; a last one of less than a batch is part of the one before.

        Otherwise padding would fill a batch with few images, or one.
        """
        full, rest = divmod(len(self), self.window)
        return max(1, full + (rest >= self.batch))

    def rows(self, seed: int, epoch: int) -> np.ndarray:
        """Row numbers (rows,) in the order in which they are read in an epoch."""
        parts = [self.groups[number] for number in group_order(seed, epoch, len(self.groups))]
        return np.concatenate([np.arange(part.start, part.start + part.rows) for part in parts])


def open_stream(selection: Selection, shuffle_rows: int, batch: int) -> Stream:
    """Find the row groups of a data set; reads metadata only.

    Args:
        selection: data set.
        shuffle_rows: about how many rows make a window.
        batch: rows of a global batch.
    """
    assert not selection.left_out, "rows of a stream are left out when they are read"
    groups, start, left = [], 0, len(selection)
    for file in selection.dataset.files:
        with selection.dataset.filesystem.open_input_file(file) as opened:
            metadata = pq.read_metadata(opened)
        for group in range(metadata.num_row_groups):
            rows = min(metadata.row_group(group).num_rows, left)
            if rows:
                groups.append(RowGroup(file, group, start, rows))
            start, left = start + rows, left - rows
    return Stream(selection, tuple(groups), window_size(shuffle_rows, batch), batch)


class WindowFeeder:
    """Ray actor that hands out windows; workers ask for the same ones, and for the next ahead of time.

    Args:
        stream: what to read.
        seed: of the order.
        faults: what is done with images that cannot be decoded.
    """

    def __init__(self, stream: Stream, seed: int, faults: FaultLog) -> None:
        from rtk.runtime.ray_session import start_ray

        start_ray()
        self.stream, self.seed, self.faults = stream, seed, faults
        self.labels = stream.selection.labels()
        self.sample_ids = stream.selection.sample_ids()
        self.kept: dict[tuple[int, int], Any] = {}
        self.position: tuple[int, int] | None = None
        self.error: str | None = None

    def window(self, epoch: int, index: int) -> tuple[Any, str | None]:
        """Reference to the `ImageArrays` of a window, in the order of reading; or what went wrong."""
        import ray

        key = (epoch, index)
        if self.error is None and key not in self.kept:
            try:
                if self.position != key:
                    self.windows = self._decode(epoch, index)
                self.kept = dict([*self.kept.items()][1 - WINDOWS_KEPT :])
                window = ray.put(next(self.windows))
            except BadImageError as error:
                self.error = str(error)
            else:
                self.position = (epoch, index + 1)
                self.kept[key] = window
        return (None, self.error) if self.error else (self.kept[key], None)

    def _decode(self, epoch: int, first: int) -> Iterator[ImageArrays]:
        """Windows of an epoch from window `first` on."""
        stream = self.stream
        rows = stream.rows(self.seed, epoch)[first * stream.window :]
        side = stream.selection.size
        decoded = decoded_rows(stream, self.seed, epoch, skip=first * stream.window)
        for wanted in np.split(rows, stream.window * np.arange(1, stream.windows - first)):
            images = np.empty((len(wanted), 3, side, side), np.uint8)
            bad = self._fill(images, wanted, decoded)
            replaced = wanted.copy()
            _replace(replaced, images, bad, self.stream.selection.dataset)
            yield ImageArrays(images, self.labels[replaced], self.sample_ids[replaced])

    def _fill(self, images: np.ndarray, rows: np.ndarray, decoded: Iterator[pa.Table]) -> list[int]:
        """Fill a window from single rows; places of those that cannot be decoded."""
        bad = []
        for position in range(len(rows)):
            row = next(decoded)
            for fault in place(row, {NAME: images[position : position + 1]}, first=int(rows[position])):
                self.faults.add(fault, len(self.stream))
                bad.append(position)
        return bad


def _replace(rows: np.ndarray, images: np.ndarray, bad: list[int], dataset: ImageDataset) -> None:
    """Let the next good row of the window stand in for each bad one: an epoch keeps its number of steps."""
    good = np.setdiff1d(np.arange(len(rows)), bad)
    if not len(good):
        raise BadImageError(f"{dataset.path}: a whole window of {len(rows)} images cannot be decoded")
    for position in bad:
        substitute = good[np.searchsorted(good, position) % len(good)]
        rows[position], images[position] = rows[substitute], images[substitute]


def decoded_rows(stream: Stream, seed: int, epoch: int, skip: int) -> Iterator[pa.Table]:
    """Rows of an epoch, one a table, decoded in parallel and in order, from row `skip` of the order on."""
    import ray
    from ray.data import ExecutionResources

    parts: list[dict[str, Any]] = []
    for number in group_order(seed, epoch, len(stream.groups)):
        group = stream.groups[number]
        if skip < group.rows:
            parts.append({"file": group.file, "group": group.group, "start": group.start, "skip": skip})
            parts[-1]["stop"] = group.rows
        skip = max(0, skip - group.rows)
    selection = stream.selection

    def decode(part: dict[str, Any]) -> Iterator[pa.Table]:
        yield from decode_group(selection, **{name: values[0] for name, values in part.items()})

    data = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
        decode, batch_size=1, batch_format="numpy"
    )
    data.context.target_max_block_size = BLOCK_BYTES
    data.context.execution_options.preserve_order = True
    data.context.execution_options.resource_limits = ExecutionResources(object_store_memory=BUFFER_BYTES)
    for block in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in range(len(block)):
            yield block.slice(row, 1)


def decode_group(
    selection: Selection, file: str, group: int, start: int, skip: int, stop: int
) -> Iterator[pa.Table]:
    """Decoded blocks of rows `skip` to `stop` of a row group whose first row is row `start` of the set."""
    position = 0
    with open_bounded(str(file), selection.dataset.filesystem) as parquet:
        for batch in parquet.batches(ROWS_PER_READ, selection.columns, [int(group)]):
            first, last = max(0, skip - position), min(len(batch), stop - position)
            if first < last:
                encoded = batch.slice(first, last - first)
                yield decode_block(encoded_block(NAME, int(start) + position + first, selection, encoded))
            position += len(batch)


def start_feeder(stream: Stream, seed: int, faults: FaultLog) -> Any:
    """Start the actor that feeds a run; it holds no CPU, its decoding tasks take the free ones.

    It stays on this node, whose folder of the run it lists in what it leaves out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Not among what a sweep's trial holds, where its decoding tasks would find no CPU.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(WindowFeeder).options(num_cpus=0, scheduling_strategy=here).remote(stream, seed, faults)


def check_decoding_cpus(workers: int) -> None:
    """Refuse a streamed run whose workers would hold every CPU, so that nothing could ever be decoded.

    Raises:
        ValueError: naming `train.workers`.
    """
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 0))
    if workers >= cpus:
        raise ValueError(
            f"train.workers: got {workers}, wanted at most {cpus - 1} with data.stream: each worker holds "
            f"one of the {cpus} CPUs of this Ray cluster, and decoding needs one"
        )
