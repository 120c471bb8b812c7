"""Class names of a source whose labels are numbers: those of prepared data, or the numbers themselves."""

from __future__ import annotations

from pathlib import Path

from rtk.data.sets.dataset import find_classes
from rtk.data.sets.storage import locate
from rtk.runtime.console import counted


def given_classes(classes_from: str | None, count: int) -> tuple[str, ...]:
    """Names of at least `count` classes.

    Args:
        classes_from: prepared data, a file or a folder, that has them; None: `0`, `1`, ...
        count: the largest label and one.

    Raises:
        ValueError: there are no class names, or too few.
    """
    if classes_from is None:
        return tuple(map(str, range(count)))
    path = Path(classes_from)
    # Class names lie beside files of data, so in a folder of such.
    filesystem, place = locate(str(path / "any.parquet" if path.is_dir() else path))
    names = find_classes(filesystem, place, f"--classes-from {path}", needed=True)
    if len(names) < count:
        raise ValueError(
            f"--classes-from: got {path} with {counted(len(names), 'class', 'classes')}, wanted {count} or "
            f"more: the largest label is {count - 1}"
        )
    return names
