"""Whose label is whose: class names of a set compared with those of a run, and its labels brought to theirs.

Two sets are joined by the names of their classes. Equal names: nothing is to be done. The same names in
another order, or some of them: labels are mapped by name. Other names are refused, unless the user insists on
joining by number (`data.labels_by`). A set without names (no `classes.json`) can only be joined by number.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rtk.data.sets.dataset import ImageDataset

MOST_NAMES = 8  # that a message lists


def label_map(names: Sequence[str], known: Sequence[str]) -> tuple[int, ...] | None:
    """For each class of a set its number among the classes of a run; None where both are the same.

    Args:
        names: of the set's classes, in the order of its labels.
        known: of the run's classes, in the order of its logits.

    Raises:
        ValueError: a class of the set is none of the run's, or a name is there twice; lists the differences.
    """
    # One file system keeps accents apart from their letters, another does not: both mean the same class.
    own, wanted = ([unicodedata.normalize("NFC", name) for name in side] for side in (names, known))
    if own == wanted:
        return None
    for side in (own, wanted):
        twice = [name for name, count in Counter(side).items() if count > 1]
        if twice:
            raise ValueError(f"classes cannot be told apart by name, {_some(twice)} is there twice")
    places = {name: number for number, name in enumerate(wanted)}
    strange = [name for name in own if name not in places]
    if strange:
        there = set(own)
        absent = [name for name in places if name not in there]
        also = f", and lack {_some(absent)}" if absent else ""
        raise ValueError(f"its {len(own)} classes have other names than the run's: {_some(strange)}{also}")
    return tuple(places[name] for name in own)


def with_classes(
    dataset: ImageDataset, classes: Sequence[str], by_number: bool = False
) -> tuple[ImageDataset, str]:
    """A set whose labels are numbers of a run's classes, and what there is to say about it ("" if nothing).

    Args:
        dataset: as it was opened.
        classes: of the run.
        by_number: take labels as they are, whatever the names.

    Raises:
        ValueError: as `label_map`.
    """
    places, note = None, ""
    if not dataset.classes:
        note = "has no class names (classes.json): its labels are taken as numbers of the run's classes"
    elif by_number:
        note = _difference(dataset.classes, classes)
    else:
        places = label_map(dataset.classes, classes)
    if places is not None:
        kind = "in another order" if len(places) == len(classes) else "only some of the run's"
        note = f"its classes are {kind}: labels are taken by name ({len(places)} of {len(classes)} classes)"
    return replace(dataset, classes=tuple(classes), label_map=places), note


def labels_hash(dataset: ImageDataset) -> str:
    """Hash of the names that the labels in a set's files are read as: equal for runs that read them alike."""
    numbers = dataset.label_map or range(len(dataset.classes))
    names = [unicodedata.normalize("NFC", dataset.classes[number]) for number in numbers]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def _difference(names: Sequence[str], known: Sequence[str]) -> str:
    """What joining by number glosses over."""
    try:
        differ = label_map(names, known) is not None
    except ValueError as error:
        return f"labels are taken by number, although {error}"
    return "labels are taken by number, although its classes are in another order" if differ else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:MOST_NAMES]))
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown
