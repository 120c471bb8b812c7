"""Folders of image files as a source: one sub-folder a class, optionally below split folders."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rtk.data.image_files import IMAGE_ENDINGS, read_tree, readable_path
from rtk.data.prepare.layout import UNLABELLED, Layout, LayoutOptions, SplitLayout, understand
from rtk.data.prepare.records import Record, Source, Split
from rtk.runtime.console import counted

_SHOWN_CLASSES = 20


def open_image_folder(
    root: Path, *, split_folders: tuple[str, ...] | None = None, classes_from: str | None = None
) -> Source:
    """Open a folder of image files.

    What its folders may mean: `layout.understand`. Classes are sorted by name. Within a split the images are
    put in the order of a hash of their paths: fixed, but mixed, so that the first N rows are a fair sample,
    and no stretch of a Parquet file holds a single class.

    Args:
        root: the folder.
        split_folders: as in `LayoutOptions`.
        classes_from: as in `LayoutOptions`.

    Raises:
        ValueError: no images, a class without images, splits whose classes disagree, or an unclear layout.
    """
    tree = read_tree(root)
    if not any(tree.all_images()):
        raise ValueError(f"{root}: no images found (looked for {' '.join(sorted(IMAGE_ENDINGS))})")
    layout = understand(tree, LayoutOptions(split_folders, classes_from))
    classes = _common_classes(root, layout.splits)
    splits = tuple(_make_split(root, split, classes) for split in layout.splits)
    ignored = tuple(sorted({_relative(path, root) for path in layout.ignored}))
    shown = tuple(_shown(root, layout, classes))
    return Source("image folder", tuple(classes), splits, has_paths=True, ignored=ignored, layout=shown)


def _common_classes(root: Path, splits: tuple[SplitLayout, ...]) -> list[str]:
    """Return the sorted class names of all splits, after checking that the splits agree.

    A class that only a later split has would shift all labels (a flat `val/images/` reads as class `images`).
    """
    first, *rest = splits
    for split in rest:
        extra = sorted(set(split.classes) - set(first.classes))
        if extra == [UNLABELLED]:
            raise ValueError(
                f"{root}: {split.name}/ holds images without class folders, {first.name}/ has classes; "
                f"--split-folders {first.name} leaves it out"
            )
        if extra:
            raise ValueError(
                f"{root}: {split.name}/ has classes that {first.name}/ lacks: {', '.join(extra[:10])}"
            )
    for name in sorted(first.classes):
        if not any(split.classes.get(name) for split in splits):
            raise ValueError(f"{root}: class folder {name!r} holds no image")
    return sorted(first.classes)


def _make_split(root: Path, split: SplitLayout, classes: list[str]) -> Split:
    entries = [(path, label) for label, name in enumerate(classes) for path in split.classes.get(name, [])]
    entries.sort(key=lambda entry: hashlib.sha256(_relative(entry[0], root).encode()).digest())
    return Split(split.name, len(entries), partial(_read, root, entries))


def _read(root: Path, entries: list[tuple[Path, int]]) -> Iterator[Record]:
    for path, label in entries:
        relative = _relative(path, root)
        yield Record(path, label, origin=relative, path=relative)


def _relative(path: Path, root: Path) -> str:
    """Return the path below `root` with forward slashes, as valid Unicode (file names need not be)."""
    return readable_path(path.relative_to(root))


def _shown(root: Path, layout: Layout, classes: list[str]) -> Iterator[str]:
    """The layout as a tree: splits, classes and their numbers of images."""
    rows = [(f"{readable_path(root)}/", counted(len(classes), "class", "classes"))]
    for split in layout.splits:
        counts = {name: len(split.classes.get(name, ())) for name in classes}
        folder = f"{split.folder}/ -> {split.name}" if split.folder else split.name
        rows.append((f"  {folder}", counted(sum(counts.values()), "image")))
        rows += [(f"    {name}", str(count)) for name, count in list(counts.items())[:_SHOWN_CLASSES]]
        rest = list(counts.values())[_SHOWN_CLASSES:]
        if rest:
            rows.append((f"    and {len(rest)} more classes", f"{min(rest)} to {max(rest)} each"))
    width = max(len(name) for name, _ in rows)
    yield from (f"{name:<{width}}  {count}" for name, count in rows)
