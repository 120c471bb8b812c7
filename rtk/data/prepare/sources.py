"""Open whatever holds images and labels: folders, CIFAR archives, MNIST's idx files, Parquet."""

import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rtk.config.errors import unknown
from rtk.config.plugin_files import add_row
from rtk.data.image_files import read_tree
from rtk.data.prepare.cifar_archive import find_cifar_folder, open_cifar
from rtk.data.prepare.cifar_c import is_cifar_c, open_cifar_c
from rtk.data.prepare.foreign_parquet import is_foreign, open_foreign_parquet
from rtk.data.prepare.idx_files import find_idx_images, open_idx
from rtk.data.prepare.image_folder import open_image_folder
from rtk.data.prepare.image_lists import open_image_lists
from rtk.data.prepare.records import Record, Source, Split
from rtk.data.sets.dataset import ImageDataset, check_labels, open_dataset, read_integers, read_rows
from rtk.data.sets.storage import read_groups


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
        name: key in `SOURCES`.
        recognises: whether a path that exists is of this kind; it only looks at names and first bytes.
        open: the source at such a path.
        supported: the kind in words, for the message about a path that is of none.
        options: names of keyword arguments of `open`, such as `classes_from`: what a person may decide.
    """

    name: str
    recognises: Callable[[Path], bool]
    open: Callable[..., Source]
    supported: str
    options: tuple[str, ...] = ()


def open_source(path: Path, kind_name: str | None = None, **options: Any) -> Source:
    """Recognises what is at `path` and opens it; metadata is checked, no image is decoded.

    Args:
        path: file or folder.
        kind_name: of a kind in `SOURCES`, to take the path for; None: it is recognised.
        options: of `SourceKind.options`; None is the same as leaving one out.

    Raises:
        ValueError: nothing is there, it is of no supported kind, it is corrupt, has no classes or images, or
            its kind does not take an option.
    """
    kind = find_kind(path) if kind_name is None else named_kind(kind_name, path)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in kind.options:
            raise ValueError(f"--{name.replace('_', '-')}: does not apply to {kind.supported}")
    source = kind.open(path, **given)
    if not source.classes:
        raise ValueError(f"{path}: {source.kind} with zero classes")
    if not source.count:
        raise ValueError(f"{path}: {source.kind} with no images")
    return source


def named_kind(name: str, path: Path) -> SourceKind:
    """The kind of source of a name, for a path that is there.

    Raises:
        ValueError: there is no such kind, or nothing at the path.
    """
    if name not in SOURCES:
        raise ValueError(f"--source: {unknown('kind', name, SOURCES)}")
    if not path.exists():
        raise ValueError(f"{path}: does not exist")
    return SOURCES[name]


def find_kind(path: Path) -> SourceKind:
    """The kind of source that is at `path`.

    Raises:
        ValueError: nothing is there, or nothing of a supported kind.
    """
    if not path.exists():
        raise ValueError(f"{path}: does not exist")
    # The last first: a user's kind may be a special case of one of rtk's.
    kind = next((kind for kind in reversed(SOURCES.values()) if kind.recognises(path)), None)
    if kind is None:
        what = (
            _describe(path)
            if path.is_dir()
            else f"a {path.suffix or 'nameless'} file, which is not supported"
        )
        raise ValueError(f"{path}: found {what}; {supported()}")
    return kind


def supported() -> str:
    """All kinds in words, a line each."""
    return "\n  - ".join(["supported are:", *(kind.supported for kind in SOURCES.values())])


def register(kind: SourceKind) -> None:
    """Add a kind of source of a user's file; it is asked before those that are there.

    Raises:
        ValueError: the name is taken.
    """
    add_row(SOURCES, "data source", kind.name, kind)


def _is_cifar(path: Path) -> bool:
    if path.is_dir():
        return find_cifar_folder(path) is not None
    try:
        return path.suffix != ".parquet" and tarfile.is_tarfile(path)
    except (EOFError, OSError):  # a compressed file that is cut
        return path.name.endswith((".tar.gz", ".tgz"))


def _is_parquet(path: Path) -> bool:
    return any(path.glob("*.parquet")) if path.is_dir() else path.suffix == ".parquet"


def _is_image_folder(path: Path) -> bool:
    return path.is_dir() and any(read_tree(path).all_images())


def _describe(folder: Path) -> str:
    """Return what a folder holds at its top level, such as `2 folders, 3 .zip, 1 .txt`."""
    counts = Counter(
        "folders" if path.is_dir() else path.suffix.lower() or "files without suffix"
        for path in folder.iterdir()
    )
    return ", ".join(f"{count} {what}" for what, count in counts.most_common(5)) or "an empty folder"


def open_parquet(path: Path) -> Source:
    """Open Parquet that has the columns `image` and `label`; keeps `path` and `sample_id`.

    Raises:
        ValueError: a column or `classes.json` is missing, a label is out of range, a sample id stands twice.
    """
    dataset = open_dataset(path)
    check_labels(dataset, len(dataset.classes))
    _check_sample_ids(dataset)
    splits, start = [], 0
    for name, files in groupby(dataset.files, _split_name):
        count = sum(len(read_integers(dataset, file, "label")) for file in files)
        splits.append(Split(name, count, partial(_read_records, dataset, start, count)))
        start += count
    kept = ("image", "label", "sample_id", "path")
    ignored = tuple(f"column {name}" for name in dataset.columns if name not in kept)
    column = partial(read_groups, dataset.filesystem, dataset.files)
    return Source(
        "Parquet", dataset.classes, tuple(splits), "path" in dataset.columns, ignored, column=column
    )


def _split_name(file: str) -> str:
    """Return the stem of a Parquet file, or of the `*.parquet` folder that it is a part of."""
    path = Path(file)
    return path.parent.stem if path.parent.suffix == ".parquet" else path.stem


def _check_sample_ids(dataset: ImageDataset) -> None:
    if dataset.has_sample_id:
        ids = np.concatenate([read_integers(dataset, file, "sample_id") for file in dataset.files])
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            raise ValueError(f"{dataset.path}: sample_id {values[counts > 1][0]} stands in more than one row")


def _read_records(dataset: ImageDataset, start: int, count: int) -> Iterator[Record]:
    for row in read_rows(dataset, np.arange(start, start + count)):
        origin = f"{dataset.path} row {row.number}"
        sample_id = row.sample_id if dataset.has_sample_id else None
        yield Record(row.image, row.label, origin, row.path, sample_id)


OWN_KINDS = (
    SourceKind(
        "image_folder",
        _is_image_folder,
        open_image_folder,
        "a folder with one sub-folder of images per class, also below train/, val/, test/; or one of images",
        ("split_folders", "classes_from"),
    ),
    SourceKind(
        "parquet",
        _is_parquet,
        open_parquet,
        "a Parquet file with columns image and label, or a folder of these, with classes.json beside",
    ),
    SourceKind(
        "foreign_parquet",
        is_foreign,
        open_foreign_parquet,
        "Parquet of the Hugging Face hub: a column of encoded images, and one of classes",
        ("classes_from",),
    ),
    SourceKind(
        "idx",
        lambda path: path.is_dir() and bool(find_idx_images(path)),
        open_idx,
        "a folder with MNIST's idx files (train-images-idx3-ubyte[.gz], train-labels-idx1-ubyte[.gz], ...)",
    ),
    SourceKind(
        "cifar",
        _is_cifar,
        lambda path: open_cifar(find_cifar_folder(path) or path if path.is_dir() else path),
        "cifar-10-python.tar.gz, cifar-100-python.tar.gz, or the folder extracted from one",
    ),
    SourceKind(
        "openood",
        lambda path: False,  # the lists are not in the folder of the images
        open_image_lists,
        "OpenOOD's image lists and the folder of their images (--source openood LIST.txt ... FOLDER)",
        ("image_lists", "classes_from"),
    ),
    SourceKind(
        "cifar_c",
        is_cifar_c,
        open_cifar_c,
        "a folder with CIFAR-10-C's or CIFAR-100-C's NumPy files (brightness.npy, ..., labels.npy)",
        ("classes_from",),
    ),
)
SOURCES: dict[str, SourceKind] = {kind.name: kind for kind in OWN_KINDS}
