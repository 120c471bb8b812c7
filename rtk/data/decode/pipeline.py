"""Prepared Parquet to decoded arrays: read -> decode, by Ray Data in parallel where it is much -> one array.

Small sets are decoded once per run and then live in Ray's object store, where every worker of a node
maps the same memory; augmentation happens in the worker, on batches (`rtk.data.views.maker`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.faults import Fault, FaultLog
from rtk.data.image import BadImageError, decode_rgb
from rtk.data.sets.dataset import ImageDataset, labels, read_integers
from rtk.runs.bounded_parquet import open_bounded
from rtk.runtime.console import Progress
from rtk.runtime.freed_memory import keep_freed_memory

if TYPE_CHECKING:
    from rtk.config.data import DataConfig

ROWS_PER_BLOCK = 512
LITTLE = 8 << 20  # bytes of files that one process decodes sooner than others start


@dataclass(frozen=True)
class Selection:
    """A data set to decode: images of `size` x `size` pixels, the first `rows` of them (None: all).

    `crop_share` and `interpolation` are those of `resize_and_crop`, `exif` and `jpeg` those of `decode_rgb`;
    `left_out` are rows of the files, among these, that are treated as if they were not there.
    """

    dataset: ImageDataset
    size: int
    rows: int | None = None
    crop_share: float = 1.0
    interpolation: str = "bilinear"
    exif: str = "apply"
    jpeg: str = "full"
    left_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        return min(self.rows or self.dataset.rows, self.dataset.rows) - len(self.left_out)

    def first(self, rows: int) -> Selection:
        """The same selection, of its first `rows` rows only."""
        return replace(self, rows=rows, left_out=tuple(row for row in self.left_out if row < rows))

    @property
    def kept(self) -> np.ndarray:
        """Rows of the files that are used, int64 (rows,)."""
        return np.delete(np.arange(len(self) + len(self.left_out)), self.left_out)

    def labels(self) -> np.ndarray:
        """Labels int64 (rows,).

        Raises:
            ValueError: one is missing.
        """
        return labels(self.dataset)[self.kept]

    def sample_ids(self) -> np.ndarray:
        """Stable ids int64 (rows,): the column `sample_id`, or the row numbers where there is none."""
        if not self.dataset.has_sample_id:
            return self.kept
        parts = [read_integers(self.dataset, file, "sample_id") for file in self.dataset.files]
        return np.concatenate(parts)[self.kept]

    @property
    def stored_bytes(self) -> float:
        """Bytes of the files that hold the rows, as far as they are used."""
        dataset = self.dataset
        whole = sum(info.size or 0 for info in dataset.filesystem.get_file_info(list(dataset.files)))
        return whole * len(self) / max(1, dataset.rows)

    @property
    def columns(self) -> list[str]:
        """Columns to read for decoding and for naming what cannot be decoded."""
        return [name for name in ("image", "sample_id", "path") if name in self.dataset.columns]


def evaluation_selection(data: DataConfig, dataset: ImageDataset, rows: int | None = None) -> Selection:
    """A data set as images to evaluate on."""
    how = (data.crop_share, data.interpolation, data.exif, data.jpeg)
    return Selection(dataset, data.image_size, rows, *how)


def decode_datasets(
    selections: Mapping[str, Selection], progress: Progress | None = None, faults: FaultLog | None = None
) -> dict[str, ImageArrays]:
    """Decode several data sets in one pass.

    Args:
        selections: what to decode, by name.
        progress: called with the number of images done and their total.
        faults: what is done with images that cannot be decoded; None: fail at the first.

    Returns:
        Arrays by the same names, rows in the order of the files, without those that were skipped.

    Raises:
        BadImageError: naming data set and row where an image cannot be decoded, or too many cannot.
    """
    faults = faults or FaultLog()
    blocks = [block for name, selection in selections.items() for block in encoded_blocks(name, selection)]
    little = is_little(selections)
    images = {name: np.empty((len(s), 3, s.size, s.size), np.uint8) for name, s in selections.items()}
    bad: dict[str, list[int]] = {name: [] for name in selections}
    done, total = 0, sum(len(selection) for selection in selections.values())
    for block in map(decode_block, blocks) if little else _decoded_in_parallel(blocks):
        for fault in place(block, images):
            faults.add(fault, selections[fault.set].dataset.rows)
            bad[fault.set].append(fault.row)
        done += len(block)
        if progress is not None:
            progress(done, total)
    return {name: _arrays(images[name], selection, bad[name]) for name, selection in selections.items()}


def is_little(selections: Mapping[str, Selection], work: float = 1.0) -> bool:
    """Whether this process is done with data sets before Ray has started others.

    Args:
        selections: the data sets.
        work: what is done with an image, as a multiple of decoding it.
    """
    return work * sum(selection.stored_bytes for selection in selections.values()) <= LITTLE


def _decoded_in_parallel(blocks: list[pa.Table]) -> Iterator[pa.Table]:
    """Decoded blocks in their order, by Ray Data."""
    import ray

    warn_of_full_cluster()
    decoded = ray.data.from_arrow(blocks).map_batches(
        decode_block, batch_size=ROWS_PER_BLOCK, batch_format="pyarrow", zero_copy_batch=True
    )
    decoded.context.execution_options.preserve_order = True  # so that the first fault is the first row's
    yield from decoded.iter_batches(batch_size=None, batch_format="pyarrow")


def warn_of_full_cluster() -> None:
    """Say on standard error that nothing can be decoded until a CPU is free, where none is."""
    import ray

    total = int(ray.cluster_resources().get("CPU", 0))
    if ray.available_resources().get("CPU", 0) < 1:
        print(
            f"rtk: all {total} CPUs of the Ray cluster are taken; decoding waits until one is free",
            file=sys.stderr,
            flush=True,
        )


@dataclass(frozen=True)
class FilePart:
    """The rows of one file of a data set: row `start` of all its files and those that follow."""

    name: str
    selection: Selection
    file: str
    start: int

    def blocks(self, size: int = ROWS_PER_BLOCK) -> Iterator[pa.Table]:
        """Blocks of at most `size` encoded images, as `encoded_block` makes them."""
        read, used = self.start, self.selection.kept
        row = int(np.searchsorted(used, read))
        with open_bounded(self.file, self.selection.dataset.filesystem) as parquet:
            for batch in parquet.batches(size, self.selection.columns):
                kept = used[row : np.searchsorted(used, read + len(batch))]
                if len(kept):
                    whole = len(kept) == len(batch)
                    chosen = batch if whole else batch.take(pa.array(kept - read))
                    yield encoded_block(self.name, row, self.selection, chosen)
                row, read = row + len(kept), read + len(batch)
                if row == len(used):
                    return


def file_parts(name: str, selection: Selection) -> Iterator[FilePart]:
    """The files of a data set that have rows to use."""
    files = selection.dataset.files
    start, used = 0, len(selection) + len(selection.left_out)
    for number, file in enumerate(files):
        if number:
            with selection.dataset.filesystem.open_input_file(files[number - 1]) as opened:
                start += pq.read_metadata(opened).num_rows
        if start >= used:
            return
        yield FilePart(name, selection, file, start)


def encoded_blocks(name: str, selection: Selection, size: int = ROWS_PER_BLOCK) -> Iterator[pa.Table]:
    """Blocks of at most `size` encoded images of a data set, in the order of its rows."""
    for part in file_parts(name, selection):
        yield from part.blocks(size)


def encoded_block(name: str, row: int, selection: Selection, batch: pa.RecordBatch) -> pa.Table:
    """A block for `decode_block` from consecutive rows of a file, the first of them row `row` of the set.

    Its columns are `set`, `row`, `image`, `sample_id` and `path` (null where the data has none), and how to
    decode: `size`, `crop_share`, `how`, `exif`, `jpeg`.
    """
    count = len(batch)
    kinds = {"image": pa.binary(), "sample_id": pa.int64(), "path": pa.string()}
    columns = {
        column: batch[column].cast(kind) if column in batch.schema.names else pa.nulls(count, kind)
        for column, kind in kinds.items()
    }
    same = {
        "set": name,
        "size": selection.size,
        "crop_share": selection.crop_share,
        "how": selection.interpolation,
        "exif": selection.exif,
        "jpeg": selection.jpeg,
    }
    repeated = {column: pa.repeat(value, count) for column, value in same.items()}
    return pa.table({**repeated, "row": pa.array(range(row, row + count)), **columns})


def decode_block(block: pa.Table) -> pa.Table:
    """Encoded images to raw CHW bytes; an image that cannot be decoded yields its reason instead."""
    keep_freed_memory()  # of a picture for the next one
    pixels: list[bytes | None] = []
    reasons: list[str | None] = []
    columns = (block[name].to_pylist() for name in ("image", "size", "crop_share", "how", "exif", "jpeg"))
    for data, *how in zip(*columns, strict=True):
        try:
            pixels.append(decode_rgb(data or b"", *how).transpose(2, 0, 1).tobytes())
            reasons.append(None)
        except BadImageError as error:
            pixels.append(None)
            reasons.append(str(error))
    decoded = {"pixels": pa.array(pixels, pa.binary()), "reason": pa.array(reasons, pa.string())}
    kept = ("set", "row", "size", "sample_id", "path")
    return pa.table({**{name: block[name] for name in kept}, **decoded})


def place(block: pa.Table, images: Mapping[str, np.ndarray], first: int = 0) -> Iterator[Fault]:
    """Put decoded images where their row numbers say, counted from `first`; yield the undecodable ones."""
    names = ("set", "row", "pixels", "sample_id", "path", "reason")
    for name, row, pixels, sample_id, path, reason in zip(
        *(block[column].to_pylist() for column in names), strict=True
    ):
        if reason is None:
            images[name][row - first] = np.frombuffer(pixels, np.uint8).reshape(images[name].shape[1:])
        else:
            yield Fault(name, row, sample_id, path, reason)


def _arrays(images: np.ndarray, selection: Selection, bad: list[int]) -> ImageArrays:
    """Images with labels and ids, without the bad rows."""
    arrays = ImageArrays(images, selection.labels(), selection.sample_ids())
    return arrays.take(np.delete(np.arange(len(images)), bad)) if bad else arrays
