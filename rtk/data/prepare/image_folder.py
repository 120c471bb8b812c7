"""Folders of image files as a source: one sub-folder a class, optionally below split folders."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from rtk.data.prepare.records import Record, Source, Split

_COMMON_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
IMAGE_SUFFIXES = frozenset([*_COMMON_SUFFIXES, ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"])
SPLIT_NAMES = ("train", "val", "valid", "validation", "test")  # in the order of the sample ids
UNLABELLED = "unlabelled"
WHOLE = "all"  # name of the only split of a folder without split folders

_ClassFiles = dict[str, list[Path]]


def open_image_folder(root: Path) -> Source:
    """Open a folder of image files.

    Understood are `root/CLASS/**/*.png`, the same below `root/train`, `root/val`, `root/test`, and images
    directly in `root` (or in each split folder), which become the one class `unlabelled`. Classes are sorted
    by name. Within a split the images are put in the order of a hash of their paths: fixed, but mixed, so
    that the first N rows are a fair sample and no stretch of a Parquet file holds a single class.

    Raises:
        ValueError: no images, a class without images, splits whose classes disagree, or an unclear layout.
    """
    ignored: list[Path] = []
    found = {name: _files_by_class(folder, ignored) for name, folder in _split_folders(root).items()}
    if not any(files for by_class in found.values() for files in by_class.values()):
        raise ValueError(f"{root}: no images found (looked for {' '.join(sorted(IMAGE_SUFFIXES))})")
    classes = _common_classes(root, found)
    splits = tuple(_make_split(root, name, by_class, classes) for name, by_class in found.items())
    relative = tuple(_relative(path, root) for path in ignored)
    return Source("image folder", tuple(classes), splits, has_paths=True, ignored=relative)


def _split_folders(root: Path) -> dict[str, Path]:
    """Return split name -> folder; the root itself where it has no split folders."""
    folders = _visible_folders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    others = [folder.name for folder in folders if folder not in splits]
    if splits and not others:
        splits.sort(key=lambda folder: SPLIT_NAMES.index(folder.name.lower()))
        return {folder.name.lower(): folder for folder in splits}
    if len(splits) > 1:  # one alone may be a class: `train` is also a vehicle
        names = ", ".join(folder.name for folder in splits)
        raise ValueError(
            f"{root}: holds split folders ({names}) and others ({', '.join(others[:5])}); "
            "wanted either splits only or classes only"
        )
    return {WHOLE: root}


def _files_by_class(folder: Path, ignored: list[Path]) -> _ClassFiles:
    """List the images below each class folder; files passed over are appended to `ignored`."""
    class_folders = _visible_folders(folder)
    direct = [path for path in sorted(folder.iterdir()) if not path.is_dir() and not _is_hidden(path.name)]
    by_class = {path.name: _image_files(path, ignored) for path in class_folders}
    if any(by_class.values()):
        ignored.extend(direct)
        return by_class
    ignored.extend(path for path in direct if not _is_image(path))
    return {UNLABELLED: [path for path in direct if _is_image(path)]}


def _image_files(folder: Path, ignored: list[Path]) -> list[Path]:
    """Return the image files at any depth below `folder`."""
    images: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for path in (Path(parent, name) for name in names if not _is_hidden(name)):
            (images if _is_image(path) else ignored).append(path)
    return images


def _common_classes(root: Path, found: Mapping[str, _ClassFiles]) -> list[str]:
    """Return the sorted class names of all splits, after checking that the splits agree.

    A class that only a later split has would shift all labels (a flat `val/images/` reads as class `images`).
    """
    first, *rest = found
    for name in rest:
        extra = sorted(set(found[name]) - set(found[first]))
        if extra:
            raise ValueError(f"{root}: {name}/ has classes that {first}/ lacks: {', '.join(extra[:10])}")
    for name in sorted(found[first]):
        if not any(by_class.get(name) for by_class in found.values()):
            raise ValueError(f"{root}: class folder {name!r} holds no image")
    return sorted(found[first])


def _make_split(root: Path, name: str, by_class: _ClassFiles, classes: list[str]) -> Split:
    entries = [
        (path, label) for label, class_name in enumerate(classes) for path in by_class.get(class_name, [])
    ]
    entries.sort(key=lambda entry: hashlib.sha256(_relative(entry[0], root).encode()).digest())
    return Split(name, len(entries), partial(_read, root, entries))


def _read(root: Path, entries: list[tuple[Path, int]]) -> Iterator[Record]:
    for path, label in entries:
        relative = _relative(path, root)
        yield Record(path, label, origin=relative, path=relative)


def _relative(path: Path, root: Path) -> str:
    """Return the path below `root` with forward slashes, as valid Unicode (file names need not be)."""
    return path.relative_to(root).as_posix().encode(errors="replace").decode()


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES
