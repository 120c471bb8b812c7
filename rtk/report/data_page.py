"""What `rtk data check` found, as JSON values and as a page of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from rtk.data.check.findings import Duplicates, Findings
from rtk.data.check.survey import Survey
from rtk.evaluate.label_check import LabelCheck
from rtk.report.gallery import Picture, gallery
from rtk.report.page import write_page

MOST_GROUPS = 30  # of near-duplicates on the page
OF_GROUP = 8  # pictures of one group

WORDS = {  # of a summary
    "images": "images looked at",
    "broken": "images that cannot be decoded",
    "groups_over_sets": "pictures that are in several sets",
    "groups_with_different_labels": "pictures with several labels",
    "groups_of_near_duplicates": "groups of near-duplicates in all",
    "doubtful_labels": "labels that look wrong",
    "odd_sizes": "images of odd size or shape",
    "rare_classes": "classes with few images",
}


@dataclass(frozen=True)
class Checked:
    """Everything that a check found.

    Attributes:
        findings: about the images.
        labels: what the run makes of the labels, by data set; None where no run was given.
        run: its name.
    """

    findings: Findings
    labels: Mapping[str, LabelCheck] | None = None
    run: str | None = None


class Section(NamedTuple):
    """A heading of the page, what it says, and its galleries."""

    heading: str
    text: str
    galleries: Sequence[Markup]


def as_json(checked: Checked) -> dict[str, Any]:
    """All findings as JSON values; images by data set, row and path."""
    found, seen = checked.findings, checked.findings.survey
    duplicates = [
        {"exact": group.exact, "over_sets": group.over_sets, "labels_differ": group.differs}
        | {"images": [_place(seen, int(number)) for number in group.images]}
        for group in found.duplicates
    ]
    content: dict[str, Any] = {
        "sets": {
            name: {"path": dataset.path, "images": dataset.rows}
            | {"class_counts": found.counts[:, one].tolist(), "balance": asdict(found.balance[name])}
            for one, (name, dataset) in enumerate(seen.datasets.items())
        },
        "classes": list(seen.classes),
        "notes": dict(seen.notes),
        "summary": summary(checked),
        "rare_classes": list(found.rare),
        "broken": [_place(seen, number) | {"reason": why} for number, why in seen.broken.items()],
        "near_duplicates": duplicates,
        "odd_sizes": [
            _place(seen, odd.image) | {"kind": odd.kind, "size": seen.sizes[odd.image].tolist()}
            for odd in found.odd
        ],
    }
    if checked.labels is not None:
        content["run"] = checked.run
        content["labels"] = {name: list(_doubts(seen, name, one)) for name, one in checked.labels.items()}
    return content


def _place(seen: Survey, number: int) -> dict[str, Any]:
    place = {"set": seen.names[seen.sets[number]], "row": int(seen.rows[number]), "path": seen.paths[number]}
    return place | {"label": seen.classes[seen.labels[number]]}


def _doubts(seen: Survey, name: str, check: LabelCheck) -> Iterator[dict[str, Any]]:
    first = int(seen.numbers_of(name)[0])
    columns = (check.rows.tolist(), check.suggested, check.given.tolist(), check.best.tolist())
    for row, suggested, given, best in zip(*columns, strict=True):
        values = {"suggested": suggested, "probability": given, "suggested_probability": best}
        yield _place(seen, first + row) | values


def summary(checked: Checked) -> dict[str, int]:
    """How many of each kind: what is to be mended first comes first."""
    found = checked.findings
    counts = {
        "images": len(found.survey.labels),
        "broken": len(found.survey.broken),
        "groups_over_sets": sum(group.over_sets for group in found.duplicates),
        "groups_with_different_labels": sum(group.differs for group in found.duplicates),
        "groups_of_near_duplicates": len(found.duplicates),
    }
    if checked.labels is not None:
        counts["doubtful_labels"] = sum(len(check.rows) for check in checked.labels.values())
    return counts | {"odd_sizes": len(found.odd), "rare_classes": len(found.rare)}


def write_data_page(path: Path, checked: Checked, most: int) -> Path:
    """Write the page.

    Args:
        path: where to.
        checked: what was found.
        most: pictures of a section, at most; of near-duplicates `MOST_GROUPS` groups.
    """
    seen = checked.findings.survey
    shown = [*_label_pictures(checked, most), *_duplicate_pictures(checked), *_odd_pictures(checked, most)]
    images = seen.read({number for section in shown for group in section[2] for number, _ in group})
    sections = [
        Section(
            heading, text, [gallery([Picture(images[n], lines) for n, lines in group]) for group in groups]
        )
        for heading, text, groups in shown
    ]
    return write_page(
        path,
        "data_page.html",
        title=" and ".join(seen.names),
        sets=[
            (name, dataset.path, dataset.rows, seen.notes.get(name, ""))
            for name, dataset in seen.datasets.items()
        ],
        summary=[(WORDS[key], value) for key, value in summary(checked).items()],
        sections=sections,
        broken=[(*_words(seen, number), why) for number, why in list(seen.broken.items())[:most]],
        classes=[
            (name, *row) for name, row in zip(seen.classes, checked.findings.counts.tolist(), strict=True)
        ],
        rare=checked.findings.rare,
        names=seen.names,
    )


Shown = tuple[str, str, list[list[tuple[int, list[str]]]]]  # heading, text, groups of image numbers and lines


def _label_pictures(checked: Checked, most: int) -> Iterator[Shown]:
    seen = checked.findings.survey
    for name, check in (checked.labels or {}).items():
        first = int(seen.numbers_of(name)[0])
        pictures = []
        for doubt in list(_doubts(seen, name, check))[:most]:
            seems = f"looks like {doubt['suggested']} ({doubt['suggested_probability']:.0%})"
            labelled = f"labelled {doubt['label']} ({doubt['probability']:.1%})"
            pictures.append((first + doubt["row"], [labelled, seems, _name(doubt)]))
        text = (
            f"{len(check.rows)} of {check.images} labels, by confident learning from the predictions of "
            f"{checked.run}, the most doubtful first. "
        )
        if check.trained_on:
            text += (
                f"The run was trained on {check.trained_on} of these images: it has learnt wrong labels by "
                "heart, so fewer are found than in images it has not seen. "
            )
        if pictures:
            yield f"Labels that look wrong: {name}", text + _of(len(pictures), len(check.rows)), [pictures]


def _duplicate_pictures(checked: Checked) -> Iterator[Shown]:
    groups = checked.findings.duplicates
    for heading, chosen, text in (
        (
            "The same picture in several sets",
            [group for group in groups if group.over_sets],
            "A model is measured on what it was trained on; rtk data prepare --split keeps them together.",
        ),
        (
            "The same picture with several labels",
            [group for group in groups if group.differs and not group.over_sets],
            "At most one of the labels can be right.",
        ),
        (
            "Other near-duplicates",
            [group for group in groups if not (group.differs or group.over_sets)],
            "Copies count several times, in training and in what is measured.",
        ),
    ):
        shown = [_group_pictures(checked.findings.survey, group) for group in chosen[:MOST_GROUPS]]
        if shown:
            yield heading, f"{len(chosen)} groups. {text} {_of(len(shown), len(chosen))}", shown


def _group_pictures(seen: Survey, group: Duplicates) -> list[tuple[int, list[str]]]:
    pictures = []
    for number in group.images[:OF_GROUP].tolist():
        name, label, place = _words(seen, number)
        kind = "same bytes" if group.exact else "{}x{}".format(*seen.sizes[number])
        pictures.append((number, [f"{name}: {label}", kind, place]))
    return pictures


def _odd_pictures(checked: Checked, most: int) -> Iterator[Shown]:
    seen, odd = checked.findings.survey, checked.findings.odd
    pictures = []
    for number, kind in odd[:most]:
        name, label, place = _words(seen, number)
        width, height = seen.sizes[number]
        pictures.append((number, [f"{kind}: {width}x{height}", f"{name}: {label}", place]))
    if pictures:
        text = f"{len(odd)} images far from the usual size or shape of {seen.names[0]}. "
        yield "Odd sizes", text + _of(len(pictures), len(odd)), [pictures]


def _words(seen: Survey, number: int) -> tuple[str, str, str]:
    """Set, label and name of an image."""
    place = _place(seen, number)
    return place["set"], place["label"], _name(place)


def _name(place: Mapping[str, Any]) -> str:
    return str(place["path"] or f"row {place['row']}")


def _of(shown: int, there: int) -> str:
    return "" if shown == there else f"The first {shown} are shown; the JSON file beside this page lists all."
