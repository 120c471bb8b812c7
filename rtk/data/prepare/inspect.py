"""Look at prepared data: counts, sizes, duplicates, and a picture of pictures."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from rtk.data.image import BadImageError, decode_rgb, open_image, read_info
from rtk.data.sets.dataset import ImageDataset, Row, check_labels, labels, open_dataset, read_rows

_CELL, _CAPTION = 96, 16  # pixels
_MOST_COMMON_SIZES = 10


@dataclass(frozen=True)
class ClassBalance:
    """How many images the classes have.

    Attributes:
        min: fewest images of a class.
        median: median over classes.
        max: most images of a class.
        imbalance: most over fewest, among the classes that have any.
        empty: names of the classes without images.
    """

    min: int
    median: float
    max: int
    imbalance: float
    empty: tuple[str, ...]


@dataclass(frozen=True)
class InspectReport:
    """What a dataset holds. Everything from `looked_at` on is about the images looked at.

    Attributes:
        path: of the dataset.
        files: number of Parquet files.
        rows: number of images.
        classes: class names; numbers where the dataset has no `classes.json`.
        class_counts: images of each class.
        balance: the same in short.
        looked_at: number of images whose bytes were read.
        bytes: encoded size of these, summed.
        sizes: the most common sizes, `WIDTHxHEIGHT` -> images.
        width: smallest and largest width in pixels; None if no image is readable.
        height: smallest and largest height in pixels; likewise.
        modes: Pillow mode -> images.
        encodings: file format -> images.
        turned: number of images whose EXIF orientation turns or mirrors them.
        duplicates: images whose bytes are those of an earlier one.
        conflicts: those of the duplicates whose label differs from the earlier one's.
        unreadable: number of images whose header cannot be read.
    """

    path: str
    files: int
    rows: int
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    balance: ClassBalance
    looked_at: int
    bytes: int
    sizes: dict[str, int]
    width: tuple[int, int] | None
    height: tuple[int, int] | None
    modes: dict[str, int]
    encodings: dict[str, int]
    turned: int
    duplicates: int
    conflicts: int
    unreadable: int


def inspect_dataset(path: str | Path, *, sample: int | None = None, seed: int = 0) -> InspectReport:
    """Counts classes, sizes, modes, encodings and duplicates. Reads headers, decodes no image.

    Args:
        path: a Parquet file or folder, local or URI.
        sample: look at this many random images only (labels are counted in full); None looks at all.
        seed: of that choice.

    Raises:
        ValueError: as `open_dataset`, or a label is out of range of `classes.json`.
    """
    dataset = open_dataset(path, need_classes=False)
    values = labels(dataset)
    classes = dataset.classes or tuple(str(number) for number in range(values.max() + 1))
    check_labels(dataset, len(classes))
    counts = np.bincount(values, minlength=len(classes))
    seen = _Seen()
    for row in read_rows(dataset, _choose(dataset.rows, sample, seed)):
        seen.add(row)
    return InspectReport(
        path=str(path),
        files=len(dataset.files),
        rows=dataset.rows,
        classes=classes,
        class_counts=tuple(counts.tolist()),
        balance=class_balance(classes, counts),
        looked_at=seen.rows,
        bytes=seen.bytes,
        sizes={f"{width}x{height}": n for (width, height), n in seen.sizes.most_common(_MOST_COMMON_SIZES)},
        width=_range(width for width, _ in seen.sizes),
        height=_range(height for _, height in seen.sizes),
        modes=dict(seen.modes),
        encodings=dict(seen.encodings),
        turned=seen.turned,
        duplicates=seen.duplicates,
        conflicts=seen.conflicts,
        unreadable=seen.unreadable,
    )


class _Seen:
    """Sums over the images looked at."""

    def __init__(self) -> None:
        self.rows = self.bytes = self.turned = self.duplicates = self.conflicts = self.unreadable = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.modes: Counter[str] = Counter()
        self.encodings: Counter[str] = Counter()
        self._label_of: dict[bytes, int] = {}  # by a hash of 16 bytes, so that a million images fit

    def add(self, row: Row) -> None:
        self.rows += 1
        self.bytes += len(row.image)
        digest = hashlib.sha256(row.image).digest()[:16]
        if digest in self._label_of:
            self.duplicates += 1
            self.conflicts += row.label != self._label_of[digest]
        else:
            self._label_of[digest] = row.label
        self._add_info(row)

    def _add_info(self, row: Row) -> None:
        try:
            info = read_info(open_image(row.image))
        except BadImageError:
            self.unreadable += 1
            return
        self.sizes[info.width, info.height] += 1
        self.modes[info.mode] += 1
        self.encodings[info.encoding] += 1
        self.turned += info.orientation > 1


def contact_sheet(dataset: ImageDataset, rows: int = 8, columns: int = 8, seed: int = 0) -> Image.Image:
    """Draw random images in a grid, each whole, with the name of its class below.

    Args:
        dataset: where to take them from.
        rows: rows of the grid.
        columns: columns of the grid.
        seed: of the choice of images.

    Returns:
        RGB image of `96 * columns` x `112 * rows` pixels; cells beyond the last image stay white.

    Raises:
        ValueError: `rows` or `columns` is below 1.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows, columns: got {rows}, {columns}, wanted at least 1")
    sheet = Image.new("RGB", (columns * _CELL, rows * (_CELL + _CAPTION)), "white")
    chosen = _choose(dataset.rows, rows * columns, seed)
    for cell, row in enumerate(read_rows(dataset, chosen)):
        left, top = cell % columns * _CELL, cell // columns * (_CELL + _CAPTION)
        picture, caption = _thumbnail(row, dataset.classes)
        sheet.paste(picture, (left, top))
        _write_caption(sheet, caption, left, top + _CELL)
    return sheet


def _thumbnail(row: Row, classes: tuple[str, ...]) -> tuple[Image.Image, str]:
    """Return the picture of a cell and its caption."""
    try:
        image = Image.fromarray(decode_rgb(row.image, None))
    except BadImageError:
        return Image.new("RGB", (_CELL, _CELL), "grey"), "(unreadable)"
    name = classes[row.label] if 0 <= row.label < len(classes) else str(row.label)
    return ImageOps.pad(image, (_CELL, _CELL), color="white"), name


def _write_caption(sheet: Image.Image, text: str, left: int, top: int) -> None:
    font = ImageFont.load_default(size=11)
    while font.getlength(text) > _CELL - 4:
        text = text.rstrip("…")[:-1] + "…"
    ImageDraw.Draw(sheet).text((left + 2, top + 1), text, fill="black", font=font)


def _choose(rows: int, wanted: int | None, seed: int) -> np.ndarray | None:
    """Return `wanted` sorted random row numbers; None, which means all, where there are no more."""
    if wanted is None or wanted >= rows:
        return None
    return np.sort(np.random.default_rng(seed).choice(rows, wanted, replace=False))


def class_balance(classes: tuple[str, ...], counts: np.ndarray) -> ClassBalance:
    """The balance of classes with so many images each, (C,)."""
    empty = tuple(name for name, count in zip(classes, counts, strict=True) if not count)
    imbalance = float(counts.max() / counts[counts > 0].min())
    return ClassBalance(int(counts.min()), float(np.median(counts)), int(counts.max()), imbalance, empty)


def _range(values: Iterable[int]) -> tuple[int, int] | None:
    ordered = sorted(values)
    return (ordered[0], ordered[-1]) if ordered else None
