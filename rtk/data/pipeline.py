"""Prepared Parquet to decoded arrays, by Ray Data: read -> decode in parallel -> one shared array.

Small sets are decoded once a run and then live in Ray's object store, where every worker of a node
maps the same memory; augmentation happens in the worker, on batches (`rtk.data.views`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rtk.console import Progress
from rtk.data.dataset import ImageDataset, labels, read_integers
from rtk.data.decode import BadImageError, decode_rgb
from rtk.data.views import ImageArrays

ROWS_PER_BLOCK = 512


@dataclass(frozen=True)
class Source:
    """A data set to decode: images of `size` x `size` pixels, the first `rows` of them (None: all)."""

    dataset: ImageDataset
    size: int
    rows: int | None = None

    def __len__(self) -> int:
        return min(self.rows or self.dataset.rows, self.dataset.rows)


def decode_datasets(
    sources: Mapping[str, Source], progress: Progress | None = None
) -> dict[str, ImageArrays]:
    """Decode several data sets in one Ray Data pass (starting a pass costs seconds).

    Args:
        sources: what to decode, by name.
        progress: called with the number of images done and their total.

    Returns:
        Arrays by the same names, rows in the order of the files.

    Raises:
        BadImageError: naming data set and row where an image cannot be decoded.
    """
    import ray

    blocks = [block for name, source in sources.items() for block in encoded_blocks(name, source)]
    decoded = ray.data.from_arrow(blocks).map_batches(
        decode_block, batch_size=ROWS_PER_BLOCK, batch_format="pyarrow", zero_copy_batch=True
    )
    images = {name: np.empty((len(s), 3, s.size, s.size), np.uint8) for name, s in sources.items()}
    done, total = 0, sum(len(source) for source in sources.values())
    for block in decoded.iter_batches(batch_size=None, batch_format="pyarrow"):
        _place(block, images)
        done += len(block)
        if progress is not None:
            progress(done, total)
    return {name: _with_labels(images[name], source) for name, source in sources.items()}


def encoded_blocks(name: str, source: Source, size: int = ROWS_PER_BLOCK) -> Iterator[pa.Table]:
    """Blocks of at most `size` encoded images, with columns `set`, `row`, `size`, `image`."""
    row, left = 0, len(source)
    for file in source.dataset.files:
        with source.dataset.filesystem.open_input_file(file) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(size, columns=["image"]):
                images = batch.column(0)[:left]
                count = len(images)
                if count == 0:
                    return
                columns = {
                    "set": [name] * count,
                    "row": range(row, row + count),
                    "size": [source.size] * count,
                }
                yield pa.table({**columns, "image": images.cast(pa.binary())})
                row, left = row + count, left - count


def sample_ids(source: Source) -> np.ndarray:
    """Stable ids int64 (rows,): the column `sample_id`, or the row numbers where there is none."""
    if not source.dataset.has_sample_id:
        return np.arange(len(source))
    parts = [read_integers(source.dataset, file, "sample_id") for file in source.dataset.files]
    return np.concatenate(parts)[: len(source)]


def decode_block(block: pa.Table) -> pa.Table:
    """Encoded images to raw CHW bytes; an image that cannot be decoded yields its reason instead."""
    pixels: list[bytes | None] = []
    reasons: list[str | None] = []
    for data, size in zip(block["image"].to_pylist(), block["size"].to_pylist(), strict=True):
        try:
            pixels.append(np.ascontiguousarray(decode_rgb(data, size).transpose(2, 0, 1)).tobytes())
            reasons.append(None)
        except BadImageError as error:
            pixels.append(None)
            reasons.append(str(error))
    columns = {"pixels": pa.array(pixels, pa.binary()), "reason": pa.array(reasons, pa.string())}
    return pa.table({**{name: block[name] for name in ("set", "row", "size")}, **columns})


def _place(block: pa.Table, images: Mapping[str, np.ndarray]) -> None:
    """Put decoded images where their row numbers say: blocks arrive in any order."""
    columns = (block[name].to_pylist() for name in ("set", "row", "pixels", "reason"))
    for name, row, pixels, reason in zip(*columns, strict=True):
        if reason is not None:
            raise BadImageError(f"data set {name!r}, row {row}: {reason}")
        images[name][row] = np.frombuffer(pixels, np.uint8).reshape(images[name].shape[1:])


def _with_labels(images: np.ndarray, source: Source) -> ImageArrays:
    return ImageArrays(images, labels(source.dataset)[: len(images)], sample_ids(source))
