"""What every source of images is turned into: splits that yield one record an image."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtk.data.image import encode_png
from rtk.data.image_files import read_image_file


@dataclass(frozen=True)
class Record:
    """One image of a source, not yet validated.

    Attributes:
        payload: encoded bytes, or the file that holds them (read as late as possible), or uint8 pixels,
            (H, W) or (H, W, 3).
        label: index into the source's classes.
        origin: where the image stands, for messages: a file, or a file and a row.
        path: value of the optional `path` column.
        sample_id: the source's own id; None where it has none.
    """

    payload: bytes | Path | np.ndarray
    label: int
    origin: str
    path: str | None = None
    sample_id: int | None = None

    def encoded(self) -> bytes:
        """The image as the bytes of an image file."""
        if isinstance(self.payload, bytes):
            return self.payload
        return read_image_file(self.payload) if isinstance(self.payload, Path) else encode_png(self.payload)


@dataclass(frozen=True)
class Split:
    """A part of a source that becomes one Parquet file (or one folder of Parquet files).

    Attributes:
        name: stem of that file, such as `train`.
        count: number of records.
        read: starts reading: an iterator over the records, which holds few of them in memory at a time.
        labelled: whether labels are numbers of the source's classes; else the images are of no class, and
            their folder of Parquet files has a `classes.json` of its own that says so.
    """

    name: str
    count: int
    read: Callable[[], Iterator[Record]]
    labelled: bool = True


@dataclass(frozen=True)
class Source:
    """An opened source: metadata is read and checked, no image is decoded.

    Attributes:
        kind: what it was recognised as, such as `image folder`.
        classes: class names, in the order of the labels.
        splits: in the order in which sample ids are given out.
        has_paths: whether records carry a `path`.
        ignored: what else was found: files that are no images, columns that are not kept.
        layout: how its folders were understood, as lines of a tree; empty where there is nothing to mistake.
        column: of a table: for the name of a column, int64 (count,), equal where its values are; raises a
            ValueError for one that it has not.
        missing: files that are named but not there, in words; records name them all the same.
    """

    kind: str
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    has_paths: bool
    ignored: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    column: Callable[[str], np.ndarray] | None = None
    missing: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of records over all splits."""
        return sum(split.count for split in self.splits)
