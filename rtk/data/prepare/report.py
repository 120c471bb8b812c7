"""What `prepare` wrote, and which images it could not decode."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtk.data.image_files import as_text
from rtk.data.prepare.parquet_writer import FileSummary
from rtk.data.prepare.split import SplitReport


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be decoded: where it stands in the source, and why."""

    origin: str
    reason: str


class BadImagesError(ValueError):
    """Images of a source cannot be decoded.

    Attributes:
        bad: all of them; the message shows the first ten.
    """

    def __init__(self, source: Path, bad: tuple[BadImage, ...]) -> None:
        shown = [f"  {image.origin}: {image.reason}" for image in bad[:10]]
        if len(bad) > len(shown):
            shown.append(f"  ... and {len(bad) - len(shown)} more")
        what = "1 image" if len(bad) == 1 else f"{len(bad)} images"
        super().__init__("\n".join([f"{source}: {what} cannot be decoded; nothing was written", *shown]))
        self.bad = bad


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` wrote; the same is in `manifest.json`.

    Attributes:
        out: the new folder.
        source: what was read.
        kind: what the source was recognised as, such as `image folder`.
        image_size: side in pixels to which images were brought, or None.
        classes: class names in the order of the labels.
        files: one summary a Parquet file, in the order of the sample ids.
        skipped: images that were left out because they cannot be decoded.
        ignored: what else the source holds: files that are no images, columns that are not kept.
        split: how it was split; None where it was not.
    """

    out: Path
    source: Path
    kind: str
    image_size: int | None
    classes: tuple[str, ...]
    files: tuple[FileSummary, ...]
    skipped: tuple[BadImage, ...]
    ignored: tuple[str, ...]
    split: SplitReport | None = None

    @property
    def ok(self) -> bool:
        """Whether every image of the source was written."""
        return not self.skipped

    @property
    def rows(self) -> int:
        """Number of images written."""
        return sum(file.rows for file in self.files)

    @property
    def turned(self) -> int:
        """Number of images whose EXIF orientation turns or mirrors them."""
        return sum(file.turned for file in self.files)

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class over all files that have classes, in the order of `classes`."""
        labelled = [file.class_counts for file in self.files if file.class_counts]
        return tuple(sum(counts) for counts in zip(*labelled, strict=True))

    def manifest(self) -> dict[str, Any]:
        """Return the report as JSON values: the content of `manifest.json`."""
        content = asdict(self)
        del content["out"]  # the folder may be moved
        return {**content, "source": as_text(self.source), "rows": self.rows, "class_counts": self.counts}
