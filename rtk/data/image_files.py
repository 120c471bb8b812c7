"""Which files below a folder are images: one list of endings, one rule for hidden files, links followed."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_COMMON_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_ENDINGS = frozenset([*_COMMON_ENDINGS, ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"])

# What systems and network storage leave beside a person's files; thumbnails in there look like pictures.
_OF_THE_SYSTEM = frozenset(
    ["__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini"]
)


LARGEST_FILE = 2**29  # bytes of an encoded image; one of as many pixels as may be decoded has fewer


def read_image_file(path: Path) -> bytes:
    """Bytes of an image file.

    Raises:
        OSError: it cannot be read, is larger than any image, or a pipe or a device (or a link to one), which
            would be waited for or read without end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))
    if status.st_size > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, wanted at most {LARGEST_FILE:,}", str(path))
    return path.read_bytes()


@dataclass
class FolderTree:
    """What lies in a folder, hidden files left out.

    Attributes:
        path: of the folder.
        images: image files directly in it, sorted by name.
        others: other files directly in it, and links back to a folder above.
        folders: the folders in it, sorted by name.
    """

    path: Path
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    folders: list[FolderTree] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the folder as `readable_name` gives it."""
        return readable_name(self.path.name)

    @property
    def with_images(self) -> list[FolderTree]:
        """The folders in it that hold an image at any depth."""
        return [folder for folder in self.folders if any(folder.all_images())]

    def all_images(self) -> Iterator[Path]:
        """Images at any depth."""
        yield from self.images
        for folder in self.folders:
            yield from folder.all_images()

    def all_others(self) -> Iterator[Path]:
        """Other files at any depth."""
        yield from self.others
        for folder in self.folders:
            yield from folder.all_others()


def read_tree(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> FolderTree:
    """List a folder at any depth. Links to folders are followed, but not back to one that they lie in.

    Args:
        folder: where to look; it is listed whatever its own name.
        above: device and number of the folders that it lies in.

    Raises:
        ValueError: a link, not of an image, leads nowhere: it may stand for a folder of images.
        OSError: a folder cannot be read.
    """
    status = folder.stat()
    above |= {(status.st_dev, status.st_ino)}
    tree = FolderTree(folder)
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        path = folder / entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_dir() and not _is_one_of(path, above):
            tree.folders.append(read_tree(path, above))
        elif is_image(entry.name) and not entry.is_dir():
            tree.images.append(path)
        elif entry.is_symlink() and not path.exists():
            raise ValueError(f"{readable_path(path)}: a link to {os.readlink(path)}, which does not exist")
        else:
            tree.others.append(path)
    return tree


def _is_one_of(folder: Path, above: frozenset[tuple[int, int]]) -> bool:
    status = folder.stat()
    return (status.st_dev, status.st_ino) in above


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over, with all that is in it."""
    return name.startswith(".") or name.casefold() in _OF_THE_SYSTEM


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def readable_name(name: str) -> str:
    """A file's name as it is stored and compared: composed Unicode (NFC), whatever system wrote it."""
    return unicodedata.normalize("NFC", as_text(name))


def as_text(path: str | Path) -> str:
    r"""A path as Unicode: read as UTF-8 in every locale; bytes that are not UTF-8 are shown as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def readable_path(path: Path) -> str:
    """A path with forward slashes, each name as `readable_name` gives it."""
    return readable_name(path.as_posix())
