"""Turn a source of images into validated Parquet; what appears is whole, and an interrupted run goes on."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from rtk.data.image import (
    BadImageError,
    ImageInfo,
    encode_png,
    open_image,
    orientation,
    read_info,
    resize_and_crop,
    to_rgb,
)
from rtk.data.prepare.journal import Finished, Journal, resumable_folder
from rtk.data.prepare.layout import UNLABELLED
from rtk.data.prepare.parquet_writer import FileSummary, ImageRow, write_parquet
from rtk.data.prepare.records import Record, Source, Split
from rtk.data.prepare.report import BadImage, BadImagesError, PrepareReport
from rtk.data.prepare.sources import open_source
from rtk.data.prepare.split import SplitOptions, split_source
from rtk.data.sets.dataset import CLASSES_FILE, MANIFEST_FILE
from rtk.runtime.console import Progress, halves
from rtk.runtime.environment import available_cpus

ROWS_PER_FILE = 50_000
_CHUNK = 64  # images validated between two reports of progress; what is in memory at a time
_MAX_THREADS = 16


def prepare(
    source: Path,
    out: Path,
    *,
    skip_bad: bool = False,
    image_size: int | None = None,
    exif: str = "apply",
    split_folders: Sequence[str] | None = None,
    classes_from: str | None = None,
    kind: str | None = None,
    image_lists: Sequence[Path] = (),
    on_open: Callable[[Source], None] | None = None,
    split: SplitOptions | None = None,
    progress: Progress | None = None,
    rows_per_file: int = ROWS_PER_FILE,
) -> PrepareReport:
    """Turn images into Parquet, validating each by a full decode.

    Writes `SPLIT.parquet` for each split (a folder of that name, holding parts, for more than `rows_per_file`
    images), `classes.json` and `manifest.json`. Encoded images keep their bytes; arrays become PNG. Sample
    ids are the source's own, or else row numbers, counted on from split to split.

    Args:
        source: of any kind in `rtk.data.prepare.sources.SOURCES`.
        out: new local folder. It appears complete or not at all; until then, finished files are in a hidden
            folder beside it, from which a run that was interrupted goes on.
        skip_bad: leave out images that cannot be decoded, and list them in the report.
        image_size: bring images to this many pixels square (as `resize_and_crop` does); those of another
            size, or that are turned, become PNG, which is lossless. None keeps them as they are.
        exif: whether those that become PNG are turned as their EXIF orientation says, see `to_rgb`. The
            others keep it, and `data.exif` decides.
        split_folders: of an image folder: the folders that are splits; (): none; None: those of usual names.
        classes_from: of an image folder: `top`, `parent` or `none` (`LayoutOptions`); of Parquet: the column
            with the classes, or `none`; of image lists: prepared data with the classes. None: found out where
            that is clear.
        kind: name of the kind in `SOURCES` to take the source for. None: it is recognised.
        image_lists: OpenOOD's lists of images below `source`, and further folders to look for these in.
        on_open: called with what was found, before any image is read.
        split: write a source without splits as `train`, `validation` and `test`. None: as it is.
        progress: called with (images done, images in all), from the calling thread; with `split` every image
            is done twice.
        rows_per_file: most rows of one Parquet file.

    Raises:
        BadImagesError: images cannot be decoded and `skip_bad` is off.
        ValueError: files that an image list names are missing and `skip_bad` is off.
        ValueError: `out` is not empty, inside `source` or being prepared; `source` is unknown, corrupt, or
            has a split without readable images.
    """
    source, out = Path(source), Path(out)
    _check_arguments(source, out, image_size, rows_per_file)
    options = {
        "split_folders": None if split_folders is None else tuple(split_folders),
        "classes_from": classes_from,
        "image_lists": tuple(map(str, image_lists)) or None,
    }
    opened, parted = open_source(source, kind, **options), None
    _check_missing(source, opened, skip_bad)
    if on_open is not None:
        on_open(opened)
    progress = progress or (lambda done, total: None)
    if split is not None:
        first_half, progress = halves(progress)
        opened, parted = split_source(opened, source, split, first_half)
    with resumable_folder(out) as folder:
        asked = options | {"kind": kind, "exif": exif, "split": split and asdict(split)}
        key = _key(opened, (source, *image_lists), image_size, rows_per_file) | asked
        validate = partial(_validate, image_size=image_size, exif=exif)
        job = _Job(opened, Journal(folder, key), validate, progress, rows_per_file)
        files = job.write(source, skip_bad)
        report = PrepareReport(
            out,
            source,
            opened.kind,
            image_size,
            opened.classes,
            files,
            tuple(job.bad),
            opened.ignored,
            parted,
        )
        _describe(folder, opened, report)
    return report


def _describe(folder: Path, source: Source, report: PrepareReport) -> None:
    """Write class names, also those of splits whose images are of no class, and what was done."""
    _write_json(folder / CLASSES_FILE, {"classes": source.classes})
    for part in source.splits:
        if not part.labelled:
            _write_json(folder / f"{part.name}.parquet" / CLASSES_FILE, {"classes": [UNLABELLED]})
    _write_json(folder / MANIFEST_FILE, report.manifest())


class _Job:
    """One run of `prepare`: counts images and collects bad ones across splits."""

    def __init__(
        self,
        source: Source,
        journal: Journal,
        validate: Callable[[Record], tuple[bytes, ImageInfo] | BadImage],
        progress: Progress,
        rows_per_file: int,
    ) -> None:
        self.source = source
        self.journal = journal
        self.validate = validate
        self.progress = progress
        self.rows_per_file = rows_per_file
        self.bad: list[BadImage] = []
        self.done = 0
        self.written = 0
        self.position = 0  # in the split

    def write(self, source: Path, skip_bad: bool) -> tuple[FileSummary, ...]:
        """Write all splits; raises as `prepare` where images are bad, or a split has none left."""
        written = [self.write_split(split) for split in self.source.splits]
        if self.bad and not skip_bad:
            raise BadImagesError(source, tuple(self.bad))
        for split, files in zip(self.source.splits, written, strict=True):
            if not files:
                raise ValueError(
                    f"{source}: {split.name} has no readable image ({split.count} images in all)"
                )
        return tuple(chain.from_iterable(written))

    def write_split(self, split: Split) -> list[FileSummary]:
        """Write what is left of a split, to one file or a folder of parts; none if no image is readable."""
        finished = [entry for entry in self.journal.finished if entry.split == split.name]
        self.position = 0
        if finished:
            self._go_on_after(finished[-1])
        rows = self._rows(split)
        summaries = [entry.summary for entry in finished]
        for first in rows:
            in_parts = split.count > self.rows_per_file or not split.labelled
            name = f"{split.name}.parquet" + (f"/part-{len(summaries):05}.parquet" if in_parts else "")
            part = chain([first], islice(rows, self.rows_per_file - 1))
            classes = len(self.source.classes) if split.labelled else 0
            summary = write_parquet(self.journal.folder, name, part, classes, self.source.has_paths)
            summaries.append(summary)
            bad = [(image.origin, image.reason) for image in self.bad]
            self.journal.note(Finished(split.name, summary, self.position, self.done, self.written, bad))
        return summaries

    def _go_on_after(self, last: Finished) -> None:
        self.position, self.done, self.written = last.position, last.done, last.written
        self.bad = [BadImage(origin, reason) for origin, reason in last.bad]
        self.progress(self.done, self.source.count)

    def _rows(self, split: Split) -> Iterator[ImageRow]:
        """Yield the rows of the readable images, in order, and collect the others."""
        records = islice(split.read(), self.position, None)
        with ThreadPoolExecutor(min(_MAX_THREADS, available_cpus())) as pool:
            while chunk := list(islice(records, _CHUNK)):
                for record, result in zip(chunk, pool.map(self.validate, chunk), strict=True):
                    self.position += 1
                    self.done += 1
                    if isinstance(result, BadImage):
                        self.bad.append(result)
                    else:
                        yield self._row(record, *result)
                self.progress(self.done, self.source.count)

    def _row(self, record: Record, image: bytes, info: ImageInfo) -> ImageRow:
        sample_id = self.written if record.sample_id is None else record.sample_id
        self.written += 1
        return ImageRow(image, record.label, sample_id, record.path, info)


def _key(
    opened: Source, sources: Sequence[Path], image_size: int | None, rows_per_file: int
) -> dict[str, Any]:
    """What has to be the same for an interrupted run to be gone on with."""
    splits = [(split.name, split.count) for split in opened.splits]
    return {
        "sources": [str(source.resolve()) for source in sources],
        "changed": [source.stat().st_mtime_ns for source in sources],
        "splits": splits,
        "classes": opened.classes,
        "image_size": image_size,
        "rows_per_file": rows_per_file,
    }


def _validate(record: Record, image_size: int | None, exif: str) -> tuple[bytes, ImageInfo] | BadImage:
    """Decode an image fully; returns the bytes to write and what they are, or why it cannot be decoded."""
    try:
        data = record.encoded()
        image = open_image(data)
        info = read_info(image)
        pixels = to_rgb(image, exif)
        # A TIFF's is gone once its pixels are decoded, and a PNG's may only then be seen.
        info = replace(info, orientation=max(info.orientation, orientation(image)))
        if image_size is None or (image.size == (image_size, image_size) and info.orientation == 1):
            return data, info
        resized = resize_and_crop(pixels, image_size)
    except (BadImageError, OSError) as error:
        return BadImage(record.origin, str(error))
    written = ImageInfo(image_size, image_size, resized.mode, "PNG", info.orientation)
    return encode_png(np.array(resized)), written


def _check_arguments(source: Path, out: Path, image_size: int | None, rows_per_file: int) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not an empty folder")
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{out}: lies inside the source {source}; wanted a folder elsewhere")
    for name, value in (("image_size", image_size), ("rows_per_file", rows_per_file)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, wanted at least 1")


def _check_missing(source: Path, opened: Source, skip_bad: bool) -> None:
    if opened.missing and not skip_bad:
        lines = "\n  ".join(opened.missing)
        raise ValueError(
            f"{source}: files that are named are missing (--skip-bad leaves them out), of\n  {lines}"
        )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
