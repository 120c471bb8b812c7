"""Write validated images as Parquet, one bounded row group at a time, and sum up what was written."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rtk.data.image import ImageInfo
from rtk.data.sets.storage import locate

# Small row groups let a reader pick, skip and shuffle; bounded bytes bound the memory of writer and reader.
ROW_GROUP_ROWS = 1000
ROW_GROUP_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ImageRow:
    """One row to write, with what its image's header says."""

    image: bytes
    label: int
    sample_id: int
    path: str | None
    info: ImageInfo


@dataclass(frozen=True)
class FileSummary:
    """What one written Parquet file holds.

    Attributes:
        file: path below the output folder.
        rows: number of images.
        bytes: size of the file.
        sha256: of the file, 64 hexadecimal digits.
        class_counts: images of each class, in the order of `classes.json`; empty for images of no class.
        width: smallest and largest width in pixels.
        height: smallest and largest height in pixels.
        modes: number of images of each Pillow mode.
        encodings: number of images of each file format.
        turned: number of images whose EXIF orientation turns or mirrors them.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    class_counts: tuple[int, ...]
    width: tuple[int, int]
    height: tuple[int, int]
    modes: dict[str, int]
    encodings: dict[str, int]
    turned: int


def write_parquet(
    folder: Path, name: str, rows: Iterator[ImageRow], num_classes: int, with_path: bool
) -> FileSummary:
    """Write at least one row to `folder / name`.

    Args:
        folder: the output folder.
        name: file name in it; its parent folder is made if need be.
        rows: read once; about one row group of them is in memory.
        num_classes: number of classes; 0 for images of no class.
        with_path: whether to write the column `path`.
    """
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    infos: Counter[ImageInfo] = Counter()
    labels: Counter[int] = Counter()
    filesystem, place = locate(str(target))
    with pq.ParquetWriter(place, _schema(with_path), filesystem=filesystem, compression="zstd") as writer:
        for group in _row_groups(rows):
            columns = {field: [getattr(row, field) for row in group] for field in writer.schema.names}
            writer.write_table(pa.table(columns, schema=writer.schema), row_group_size=len(group))
            infos.update(row.info for row in group)
            labels.update(row.label for row in group)
    class_counts = tuple(labels[label] for label in range(num_classes))
    return _summarise(target, name, infos, class_counts)


def _summarise(
    target: Path, name: str, infos: Counter[ImageInfo], class_counts: tuple[int, ...]
) -> FileSummary:
    with target.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    widths = [info.width for info in infos]
    heights = [info.height for info in infos]
    modes: Counter[str] = Counter()
    encodings: Counter[str] = Counter()
    for info, count in infos.items():
        modes[info.mode] += count
        encodings[info.encoding] += count
    return FileSummary(
        file=name,
        rows=infos.total(),
        bytes=target.stat().st_size,
        sha256=digest,
        class_counts=class_counts,
        width=(min(widths), max(widths)),
        height=(min(heights), max(heights)),
        modes=dict(modes),
        encodings=dict(encodings),
        turned=sum(count for info, count in infos.items() if info.orientation > 1),
    )


def _schema(with_path: bool) -> pa.Schema:
    fields = [("image", pa.binary()), ("label", pa.int64()), ("sample_id", pa.int64())]
    return pa.schema([*fields, ("path", pa.string())] if with_path else fields)


def _row_groups(rows: Iterator[ImageRow]) -> Iterator[list[ImageRow]]:
    group: list[ImageRow] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row.image)
        if len(group) == ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
