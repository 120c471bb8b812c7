"""A sample of what a server was asked about, kept as files that a person can sort and label."""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from rtk.config.errors import ConfigError
from rtk.data.image import FORMATS
from rtk.runs.atomic import replacing
from rtk.runs.object_store import is_uri
from rtk.runtime.console import complain

ENDINGS = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}  # of other formats: the name in lower case
LONGEST_NAME = 200  # bytes


class Sample:
    """Keeps the images with the smallest SHA-256 of all that were shown to it.

    Which those are has nothing to do with what they show or when they came, so that every distinct image is
    as likely to be among them as any other: what is promised by thresholds that are chosen on them, once they
    are labelled, is promised of images like all of them. One that comes again is the same one.

    Args:
        folder: of this machine; gets a folder of this start, named by its time. In it is one for each
            predicted class, so that who labels moves only what is wrong. Files are called
            `DECISION-SHA256.ENDING`.
        most: images.
        classes: names, which become names of folders.

    Raises:
        ConfigError: the name of a class can be none, the folder is a URI or cannot be made.
    """

    def __init__(self, folder: str | Path, most: int, classes: Sequence[str]) -> None:
        if is_uri(folder):
            raise ConfigError(f"--keep: got {str(folder)!r}, wanted a folder of this machine")
        for name in classes:
            _check_name(name)
        self.folder, self.most = Path(folder) / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f"), most
        self._kept: list[tuple[int, Path]] = []  # a heap: the largest hash, negative, comes first
        self._hashes: set[int] = set()
        self._lock = threading.Lock()
        self._was_written = True
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"--keep: {folder}: {error.strerror}") from None

    def offer(self, encoded: bytes, row: Mapping[str, Any]) -> None:
        """Keep an image, if it is to be among those that are kept; an error of the disk is said, not raised.

        Args:
            encoded: bytes of a file that was predicted.
            row: what was said of it.
        """
        digest = hashlib.sha256(encoded)
        number = int.from_bytes(digest.digest())
        with self._lock:
            if number in self._hashes or (len(self._kept) == self.most and number > -self._kept[0][0]):
                return
            path = self.folder / row["label"] / f"{row['decision']}-{digest.hexdigest()}.{_ending(encoded)}"
            if self._write(path, encoded):
                self._hashes.add(number)
                heapq.heappush(self._kept, (-number, path))
                if len(self._kept) > self.most:
                    self._forget()

    def _write(self, path: Path, encoded: bytes) -> bool:
        """Whether it is written; what prevents it is said once until it is no more."""
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(encoded)
        except OSError as error:
            if self._was_written:
                complain(f"--keep: {path}: {error.strerror}; images are answered, but not kept")
            self._was_written = False
            return False
        self._was_written = True
        return True

    def _forget(self) -> None:
        """Remove the image with the largest hash; who labels may have moved it."""
        number, path = heapq.heappop(self._kept)
        self._hashes.remove(-number)
        with suppress(OSError):  # one too many is no reason not to answer
            path.unlink()


def _ending(encoded: bytes) -> str:
    with Image.open(BytesIO(encoded), formats=FORMATS) as image:
        return ENDINGS.get(str(image.format), str(image.format).lower())


def _check_name(name: str) -> None:
    """Refuse a class whose name would be a folder elsewhere, or a hidden one, which nobody would find."""
    if name.startswith(".") or "/" in name or "\\" in name or not name.isprintable() or name != name.strip():
        raise ConfigError(f"--keep: the class {name!r} cannot be the name of a folder")
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(f"--keep: the class {name[:20]!r}... is too long for the name of a folder")
