"""OpenOOD's image lists and the folders that hold their images, as a source.

A list (`benchmark_imglist/cifar100/test_cifar100.txt`) has a line `path/below/the/folder.png LABEL` for each
image, with label -1 for images of no class. Two kinds beside these lie in OpenOOD's folders: paths alone
(`fractals_fvis.txt`, pictures to mix with), and lists of the method MOS (`test_cifar100_mos.txt`), which name
groups of classes, of the same images as other lists.
Format: https://github.com/Jingkang50/OpenOOD (v1.5, arXiv 2306.09301).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from rtk.data.image_files import is_image, readable_path
from rtk.data.prepare.given_classes import given_classes
from rtk.data.prepare.layout import UNLABELLED
from rtk.data.prepare.records import Record, Source, Split
from rtk.runtime.console import counted

KIND = "OpenOOD image lists"
NO_CLASS = -1
_LABELLED = re.compile(r"(?P<path>.*\S)\s+(?P<label>-?\d+)")
_OF_GROUPS = re.compile(r".*\S\s+\{.*group_label.*\}")
_SHOWN = 3  # missing files of a list that are named


@dataclass(frozen=True)
class ImageList:
    """One list.

    Attributes:
        file: that it was read from.
        paths: of the images, below one of the folders, in the list's order.
        labels: int64 (N,); None for images of no class.
    """

    file: Path
    paths: tuple[str, ...]
    labels: np.ndarray | None

    @property
    def name(self) -> str:
        """What its Parquet file is called: `test_cifar100` of `test_cifar100.txt`."""
        return self.file.stem


def open_image_lists(
    folder: Path, *, image_lists: Sequence[str] = (), classes_from: str | None = None
) -> Source:
    """Open image lists and the folders with their images.

    Each list is a split of its own name, in its own order. Classes are called by the folders of the images
    where lists have one for each label, else by their numbers.

    Args:
        folder: that the paths of the lists begin in.
        image_lists: the lists, and further folders to look for their images in.
        classes_from: prepared data, a file or a folder, whose classes the labels are numbers of.

    Raises:
        ValueError: there is no list, a line of one is malformed, two lists have one name, class names
            contradict each other, or no image of any list is there.
    """
    beside = [Path(path) for path in image_lists]
    folders = (folder, *(path for path in beside if path.is_dir()))
    read = {path: read_image_list(path) for path in beside if not path.is_dir()}
    lists = [one for one in read.values() if one is not None]
    _check_names(folder, lists)
    absent = {one.name: _absent(one, folders) for one in lists}
    found = [one for one in lists if len(absent[one.name]) < len(one.paths)]
    missing = tuple(_missing_line(one, absent[one.name]) for one in lists if absent[one.name])
    where = " ".join(map(readable_path, folders))
    if not found:
        raise ValueError(f"{where}: no image of any list is there\n" + "\n".join(missing))
    classes = _classes(lists, classes_from)
    left_out = [f"{path.name}: names groups of classes (MOS)" for path, one in read.items() if one is None]
    left_out += [f"{one.file.name}: none of its images is there" for one in lists if one not in found]
    return Source(
        KIND,
        classes or (UNLABELLED,),
        tuple(_split(one, folders, bool(classes)) for one in found),
        has_paths=True,
        ignored=tuple(left_out),
        layout=tuple(_shown(where, found, len(classes), left_out)),
        missing=missing,
    )


def read_image_list(file: Path) -> ImageList | None:
    """Read a list; None for one of groups of classes.

    Raises:
        ValueError: it is no text, is empty, or a line is of another form than the first; names the line.
    """
    lines = _lines(file)
    if _OF_GROUPS.fullmatch(lines[0][1]):
        return None
    if not _LABELLED.fullmatch(lines[0][1]):
        return ImageList(file, tuple(_path_alone(file, *line) for line in lines), None)
    pairs = [_labelled(file, *line) for line in lines]
    paths, labels = tuple(path for path, _ in pairs), np.array([label for _, label in pairs])
    odd = np.flatnonzero((labels == NO_CLASS) != (labels[0] == NO_CLASS))
    if len(odd):
        number, text = lines[odd[0]]
        raise ValueError(
            f"{file}, line {number}: got {text!r}, but label {labels[0]} in line {lines[0][0]}; wanted a "
            f"list of images of classes, or one of images of none ({NO_CLASS})"
        )
    return ImageList(file, paths, None if labels[0] == NO_CLASS else labels)


def _lines(file: Path) -> list[tuple[int, str]]:
    """Numbers and texts of the lines that are not empty."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read as an image list ({error})") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{file}: got an empty image list, wanted lines PATH LABEL")
    return lines


def _labelled(file: Path, number: int, text: str) -> tuple[str, int]:
    found = _LABELLED.fullmatch(text)
    if found is None or not _is_below(found["path"]) or int(found["label"]) < NO_CLASS:
        wanted = f"the path of an image below the folder and its label from 0 on ({NO_CLASS}: of no class)"
        raise ValueError(f"{file}, line {number}: got {text!r}, wanted {wanted}")
    return found["path"], int(found["label"])


def _path_alone(file: Path, number: int, text: str) -> str:
    if not _is_below(text) or not is_image(text):
        raise ValueError(
            f"{file}, line {number}: got {text!r}, wanted the path of an image below the folder, as in the "
            "first line (or, in all lines, its label behind it)"
        )
    return text


def _is_below(path: str) -> bool:
    """Whether a path stays in the folder that it is said to be in."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def _check_names(folder: Path, lists: Sequence[ImageList]) -> None:
    if not lists:
        raise ValueError(f"{folder}: got no image list, wanted LIST.txt ... FOLDER")
    files: dict[str, Path] = {}
    for one in lists:
        if one.name in files:
            raise ValueError(
                f"{one.file}: is called like {files[one.name]}, wanted the lists of one benchmark at a time"
            )
        files[one.name] = one.file


def _absent(one: ImageList, folders: Sequence[Path]) -> list[str]:
    return [path for path in one.paths if _find(path, folders) is None]


def _find(path: str, folders: Sequence[Path]) -> Path | None:
    return next((folder / path for folder in folders if os.path.isfile(folder / path)), None)


def _missing_line(one: ImageList, absent: Sequence[str]) -> str:
    named = ", ".join(absent[:_SHOWN])
    return f"{one.file.name}: {len(absent)} of {counted(len(one.paths), 'image')}, such as {named}"


def _split(one: ImageList, folders: Sequence[Path], have_classes: bool) -> Split:
    """A list as a split; one of no class needs class names of its own where others have some."""
    labelled = one.labels is not None or not have_classes
    return Split(one.name, len(one.paths), partial(_read, one, folders), labelled)


def _read(one: ImageList, folders: Sequence[Path]) -> Iterator[Record]:
    labels = np.zeros(len(one.paths), np.int64) if one.labels is None else one.labels
    for path, label in zip(one.paths, labels, strict=True):
        yield Record(_find(path, folders) or folders[0] / path, int(label), origin=path, path=path)


def _classes(lists: Sequence[ImageList], classes_from: str | None) -> tuple[str, ...]:
    """Class names; none where no list has labels."""
    count = max((int(one.labels.max()) + 1 for one in lists if one.labels is not None), default=0)
    if not count:
        return ()
    if classes_from is not None:
        return given_classes(classes_from, count)
    names = _names_of_folders(lists)
    if len(names) < count:
        return given_classes(None, count)
    return tuple(names[label] for label in range(count))


def _names_of_folders(lists: Sequence[ImageList]) -> dict[int, str]:
    """Name of each label whose images lie in a folder of their own; numbers are no names.

    Raises:
        ValueError: two lists give a label two names, or a name two labels.
    """
    names: dict[int, tuple[str, ImageList]] = {}
    labels: dict[str, int] = {}
    for one in lists:
        for label, name in _one_folder_a_label(one).items():
            known, first = names.setdefault(label, (name, one))
            if known != name or labels.setdefault(name, label) != label:
                raise ValueError(
                    f"{one.file}: label {label} is of the folder {name!r}, unlike in {first.file} "
                    f"(there {known!r}); wanted the lists of one benchmark at a time"
                )
    return {label: name for label, (name, _) in names.items()}


def _one_folder_a_label(one: ImageList) -> dict[int, str]:
    """Folder of each label of a list, empty where labels share folders or folders labels, or are numbers."""
    if one.labels is None:
        return {}
    pairs = {
        (PurePosixPath(path).parent.name, int(label))
        for path, label in zip(one.paths, one.labels, strict=True)
    }
    folders = {name for name, _ in pairs}
    if len(pairs) > len(folders) or len(pairs) > len({label for _, label in pairs}):
        return {}
    return (
        {}
        if "" in folders or all(name.isdecimal() for name in folders)
        else {label: name for name, label in pairs}
    )


def _shown(where: str, lists: Sequence[ImageList], count: int, left_out: Sequence[str]) -> Iterator[str]:
    """What was read as a table: a row for each list."""
    rows = [(where, counted(count, "class", "classes"))]
    for one in lists:
        kinds = (
            counted(len(np.unique(one.labels)), "class", "classes") if one.labels is not None else "no class"
        )
        rows.append((f"  {one.name}", f"{counted(len(one.paths), 'image')} of {kinds}"))
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {what}" for name, what in rows)
    yield from (f"  left out: {line}" for line in left_out)
