"""What the folders of an image folder mean: splits, classes or neither; what is ambiguous is refused."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtk.data.image_files import FolderTree, readable_name, readable_path

UNLABELLED = "unlabelled"
WHOLE = "all"  # name of the only split of a folder without split folders
CLASSES_FROM = ("top", "parent", "none")
# Spellings of split names -> what the split is called, in the order of the sample ids.
_SPELLINGS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "val", "valid": "valid", "validation": "validation", "dev": "dev",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_ORDER = tuple(dict.fromkeys(_SPELLINGS.values()))
_ADDITION = re.compile(r"[ _-]*(set|data|images?|imgs?|split)$")  # train_set, test-images

ClassFiles = dict[str, list[Path]]


@dataclass(frozen=True)
class LayoutOptions:
    """What a person says where the folders alone do not tell.

    Attributes:
        split_folders: names of the folders that are splits, others beside them being left out; (): none is;
            None: those of the usual names.
        classes_from: the class is the `top` folder (of the root or split), the `parent` folder of the image,
            or there is `none`; None: the top one, where that is clear.
    """

    split_folders: tuple[str, ...] | None = None
    classes_from: str | None = None

    def __post_init__(self) -> None:
        if self.classes_from not in (None, *CLASSES_FROM):
            wanted = ", ".join(CLASSES_FROM)
            raise ValueError(f"--classes-from: got {self.classes_from!r}, wanted for folders one of {wanted}")


@dataclass(frozen=True)
class SplitLayout:
    """One split of an image folder.

    Attributes:
        name: what the split is called.
        folder: where it lies below the root; empty for the root itself.
        classes: images of each class.
    """

    name: str
    folder: str
    classes: ClassFiles


@dataclass(frozen=True)
class Layout:
    """An image folder as it was understood.

    Attributes:
        splits: in the order of the sample ids.
        ignored: what belongs to no split or class.
    """

    splits: tuple[SplitLayout, ...]
    ignored: tuple[Path, ...]


def split_name(folder: str) -> str | None:
    """What the split in a folder of this name is called; None where the name is none of a split."""
    return _SPELLINGS.get(_ADDITION.sub("", folder.casefold()))


def understand(tree: FolderTree, options: LayoutOptions) -> Layout:
    """Find the splits and classes of an image folder.

    Known are `CLASS/**`, `SPLIT/CLASS/**`, and images alone or in splits, which become the one class
    `unlabelled`; each also with a folder around it (`photos/...`), as archives have it.

    Raises:
        ValueError: the folders can be read in two ways; the message names the option that decides.
    """
    ignored: list[Path] = []
    root = _without_wrapper(tree, options, ignored)
    splits = [
        SplitLayout(name, _below(tree, folder.path), _classes(folder, options, ignored))
        for name, folder in _split_folders(root, options, ignored)
    ] or _splits_below(root, options, ignored)
    names = {name for split in splits for name in split.classes}
    if len(names) == 1 and UNLABELLED not in names and options.classes_from is None:
        raise ValueError(
            f"{tree.path}: holds the single class {names.pop()!r}, wanted folders of several classes; "
            "--classes-from none takes its images as of no class (an OOD set, say), "
            "--classes-from top insists on the class"
        )
    return Layout(tuple(splits), tuple(ignored))


def _without_wrapper(tree: FolderTree, options: LayoutOptions, ignored: list[Path]) -> FolderTree:
    """The folder itself, or the only one in it where that holds folders in turn."""
    while True:
        holding = tree.with_images
        if tree.images or len(holding) != 1 or holding[0].images:
            return tree
        if split_name(holding[0].name) and options.split_folders is None:
            return tree
        if options.split_folders and _named(tree, options.split_folders):
            return tree
        ignored += _left_out(tree, holding)
        (tree,) = holding


def _split_folders(
    root: FolderTree, options: LayoutOptions, ignored: list[Path]
) -> list[tuple[str, FolderTree]]:
    """Names and folders of the splits; none where they lie below the classes."""
    holding, wanted = root.with_images, options.split_folders
    if wanted is None:
        found = _usual_splits(root)
    elif not wanted:
        found = []
    else:
        found = _named(root, wanted)
        if not found:
            return []
        if len(found) < len(wanted):
            raise ValueError(_no_such_split(root, wanted, holding))
    if not found:
        return [(WHOLE, root)]
    ignored += _left_out(root, found)
    named: dict[str, FolderTree] = {}
    for folder in found:
        name = split_name(folder.name) or folder.name.lower()
        if name in named:
            raise ValueError(
                f"{root.path}: {named[name].name} and {folder.name} are both the split {name}; "
                f"--split-folders {folder.name} takes one, --split-folders none takes them as classes"
            )
        named[name] = folder
    rank = {name: place for place, name in enumerate(_ORDER)}
    return sorted(named.items(), key=lambda entry: rank.get(entry[0], len(rank)))


def _usual_splits(root: FolderTree) -> list[FolderTree]:
    """Folders whose names are those of splits, where all are."""
    holding = root.with_images
    splits = [folder for folder in holding if split_name(folder.name)]
    others = [folder.name for folder in holding if folder not in splits]
    if not others:
        return splits
    if len(splits) > 1:  # one alone may be a class: `train` is also a vehicle
        names = [folder.name for folder in splits]
        raise ValueError(
            f"{root.path}: holds split folders ({', '.join(names)}) and others ({', '.join(others[:5])}); "
            f"--split-folders {','.join(names)} leaves the others out, "
            "--split-folders none takes all as classes"
        )
    return []


def _splits_below(root: FolderTree, options: LayoutOptions, ignored: list[Path]) -> list[SplitLayout]:
    """Splits whose folders lie in the class folders: `CLASS/SPLIT/**`, read only where that is asked for."""
    wanted = options.split_folders or ()
    splits: dict[str, ClassFiles] = {split_name(name) or name.lower(): {} for name in wanted}
    for folder in root.folders:
        found = _named(folder, wanted)
        if not found:
            raise ValueError(_no_such_split(root, wanted, root.with_images))
        ignored += _left_out(folder, found)
        for split in found:
            name = split_name(split.name) or split.name.lower()
            splits[name][_class_name(folder)] = list(split.all_images())
    return [SplitLayout(name, f"*/{name}", classes) for name, classes in splits.items()]


def _no_such_split(root: FolderTree, wanted: Sequence[str], holding: list[FolderTree]) -> str:
    there = ", ".join(folder.name for folder in holding[:10]) or "no folder with images"
    return f"--split-folders: got {','.join(wanted)}, but {root.path} holds {there}"


def _classes(folder: FolderTree, options: LayoutOptions, ignored: list[Path]) -> ClassFiles:
    """Images of each class of one split."""
    ignored += folder.all_others() if options.classes_from == "none" else ()
    if options.classes_from == "none":
        return {UNLABELLED: list(folder.all_images())}
    folder = _without_wrapper(folder, LayoutOptions(split_folders=()), ignored)
    ignored += folder.all_others()
    if not folder.with_images:
        return {UNLABELLED: folder.images}
    ignored += folder.images
    if options.classes_from == "parent":
        return _by_parent(folder)
    if options.classes_from is None:
        _refuse_nested(folder, options)
    classes: ClassFiles = defaultdict(list)
    for one in folder.folders:  # two may differ in the form of their Unicode only
        classes[_class_name(one)] += one.all_images()
    return dict(classes)


def _by_parent(folder: FolderTree) -> ClassFiles:
    classes: ClassFiles = defaultdict(list)
    for one in folder.folders:
        if one.images:
            classes[_class_name(one)] += one.images
        for name, images in _by_parent(one).items():
            classes[name] += images
    return dict(classes)


def _refuse_nested(folder: FolderTree, options: LayoutOptions) -> None:
    """Refuse class folders that hold folders only, as these may be the splits or the classes."""
    inside = {one.name: _without_wrapper(one, LayoutOptions(()), []) for one in folder.folders}
    nested = {name: one for name, one in inside.items() if not one.images and len(one.with_images) > 1}
    if not nested:
        return
    name, first = next(iter(nested.items()))
    inner = [one.name for one in first.with_images]
    what = f"{readable_path(first.path)}: a class folder that holds only folders ({', '.join(inner[:5])})"
    if not all(map(split_name, inner)):
        raise ValueError(
            f"{what}; --classes-from parent takes these as classes, "
            f"--classes-from top all of it as one class {name!r}, "
            f"--split-folders {','.join(list(inside)[:5])} takes the upper ones as splits"
        )
    if options.split_folders is None:
        raise ValueError(
            f"{what}; --split-folders {','.join(inner)} takes these as splits, "
            f"--split-folders none as one class {name!r}"
        )


def _named(root: FolderTree, names: Sequence[str]) -> list[FolderTree]:
    """Folders with images of some names, in the order of the names; upper and lower case are alike."""
    by_name = {folder.name.casefold(): folder for folder in root.with_images}
    keys = [readable_name(name).casefold() for name in names]
    return [by_name[key] for key in keys if key in by_name]


def _class_name(folder: FolderTree) -> str:
    """Name of a class folder.

    Raises:
        ValueError: it is not UTF-8: what is shown of it is no name to compare classes by.
    """
    try:
        os.fsencode(folder.path.name).decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{readable_path(folder.path)}: the name of this class folder is not UTF-8; wanted it renamed "
            "(convmv -f latin1 -t utf8 --notest does that)"
        ) from None
    return folder.name


def _left_out(folder: FolderTree, kept: list[FolderTree]) -> list[Path]:
    """What lies beside some of a folder's folders."""
    others = [one.path for one in folder.folders if one not in kept]
    return [*folder.images, *folder.others, *others]


def _below(tree: FolderTree, path: Path) -> str:
    relative = readable_path(path.relative_to(tree.path))
    return "" if relative == "." else relative
