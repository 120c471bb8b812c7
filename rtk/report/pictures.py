"""Pictures of a run's page: its surest mistakes, OOD images that it accepts, right ones that it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from rtk.config.data import GROUPS
from rtk.data.decode.pipeline import Selection
from rtk.data.image import BadImageError, open_image, to_rgb
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import Row, content_hash, open_dataset, read_rows
from rtk.evaluate.predictions_file import read_stamp
from rtk.report.evaluated import EvaluatedRun
from rtk.report.gallery import SIDE, Picture, gallery
from rtk.scores.decision import ACCEPT, decide_as_described

MOST = 12  # pictures of a gallery


class Gallery(NamedTuple):
    """Pictures under a heading; `missing` says why there are none."""

    heading: str
    words: str
    html: Markup
    missing: str


class Chosen(NamedTuple):
    """Rows of the score table to show, the most telling first."""

    heading: str
    words: str
    rows: np.ndarray


def galleries(entry: EvaluatedRun, names: Sequence[str]) -> Iterator[Gallery]:
    """The galleries of a run, those without a picture left out.

    Args:
        entry: an evaluated run; its images are read from the prepared sets that the evaluation names.
        names: of the classes.
    """
    columns = {name: entry.table[name].to_numpy(zero_copy_only=False) for name in entry.table.column_names}
    decisions = _decisions(entry, columns)
    chosen = [one for one in choose(entry, columns, decisions) if len(one.rows)]
    wanted = np.unique(np.concatenate([one.rows for one in chosen])) if chosen else np.arange(0)
    found, missing = _read(entry, columns, wanted)
    exif = entry.run.config_tree()["data"].get("exif", "ignore")  # older runs knew of no turning
    for one in chosen:
        shown = [row for row in one.rows.tolist() if row in found]
        pictures = [
            Picture(
                _as_seen(found[row].image, exif), _lines(entry, columns, row, decisions, names, found[row])
            )
            for row in shown
        ]
        without = sorted({columns["set"][row] for row in one.rows} & missing.keys())
        yield Gallery(one.heading, one.words, gallery(pictures), " ".join(missing[name] for name in without))


def choose(
    entry: EvaluatedRun, columns: Mapping[str, np.ndarray], decisions: np.ndarray | None
) -> Iterator[Chosen]:
    """Rows of each gallery; without a decision rule, those that the scores rank most wrongly.

    Args:
        entry: an evaluated run.
        columns: of its score table, each (rows,).
        decisions: (rows,); None: there is no rule.
    """
    sure, familiar = (columns[entry.result[kind]] for kind in ("confidence", "ood_score"))
    is_test, right = columns["group"] == "id", columns["is_correct"].astype(bool)
    accepted = np.zeros(len(sure), bool) if decisions is None else decisions == ACCEPT
    wrong = np.flatnonzero(is_test & ~right)
    kept = f", of which {accepted[wrong].sum():,} were accepted" if decisions is not None else ""
    yield Chosen(
        "Most confident mistakes",
        f"Of {len(wrong):,} wrong predictions{kept}, those with the highest confidence.",
        _first(wrong, -sure),
    )
    for group in GROUPS:
        own = np.flatnonzero(columns["group"] == group)
        taken = own[accepted[own]]
        if decisions is None:
            words = f"Of {len(own):,} images, those with the highest OOD score."
            yield Chosen(f"{group.title()}-OOD images that look most familiar", words, _first(own, -familiar))
        else:
            words = f"{len(taken):,} of {len(own):,} images; those with the highest OOD score first."
            yield Chosen(f"{group.title()}-OOD images that were accepted", words, _first(taken, -familiar))
    good = np.flatnonzero(is_test & right)
    doubt = np.minimum(_ranks(sure), _ranks(familiar))
    if decisions is None:
        words = f"Of {len(good):,} right predictions, those that either score trusts least."
        yield Chosen("Right, but least trusted", words, _first(good, doubt))
    else:
        refused = good[~accepted[good]]
        words = f"{len(refused):,} of {len(good):,} right ones, those that either score trusts least first."
        yield Chosen("Right, but refused", words, _first(refused, doubt))


def _as_seen(image: bytes, exif: str) -> bytes | np.ndarray:
    """An image for the gallery, turned as the model saw it; small where it is decoded here."""
    if exif == "apply":
        return image  # as the gallery turns it
    try:
        picture = to_rgb(open_image(image), exif)
    except BadImageError:
        return image  # the gallery says why
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _first(rows: np.ndarray, order: np.ndarray) -> np.ndarray:
    return rows[np.argsort(order[rows], kind="stable")][:MOST]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Place of each value among all, equal ones alike."""
    return np.searchsorted(np.sort(values), values)


def _decisions(entry: EvaluatedRun, columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    rule = entry.decision
    if rule is None:
        return None
    sure, familiar = (columns[entry.result[kind]] for kind in ("confidence", "ood_score"))
    return decide_as_described(rule, sure, familiar, columns["prediction"])


def _lines(
    entry: EvaluatedRun,
    columns: Mapping[str, np.ndarray],
    row: int,
    decisions: np.ndarray | None,
    names: Sequence[str],
    image: Row,
) -> list[str]:
    """Caption of a picture: what it is and was taken for, its scores, the decision, which image it is."""
    label, taken_for = (int(columns[name][row]) for name in ("label", "prediction"))
    is_test, own_set = columns["group"][row] == "id", columns["set"][row]
    if not is_test:
        first = f"{own_set}: taken for {names[taken_for]}"
    else:
        first = names[label] if label == taken_for else f"{names[label]}, taken for {names[taken_for]}"
    scores = dict.fromkeys(entry.result[kind] for kind in ("confidence", "ood_score"))
    lines = [first, *(f"{name} {columns[name][row]:.4g}" for name in scores)]
    if decisions is not None:
        lines.append(str(decisions[row]))
    return [*lines, image.path or f"image {int(columns['sample_id'][row])}"]


def _read(
    entry: EvaluatedRun, columns: Mapping[str, np.ndarray], wanted: np.ndarray
) -> tuple[dict[int, Row], dict[str, str]]:
    """Images of rows of the score table, by row; and for each set whose images cannot be had, why."""
    found: dict[int, Row] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys(columns["set"][wanted].tolist()):
        rows = wanted[columns["set"][wanted] == name]
        try:
            images = _read_set(entry, name, columns["sample_id"][rows])
        except (ValueError, OSError) as error:
            missing[name] = f"No pictures of {name}: {error}."
            continue
        found |= dict(zip(rows.tolist(), images, strict=True))
    return found, missing


def _read_set(entry: EvaluatedRun, name: str, sample_ids: np.ndarray) -> list[Row]:
    """Rows of a data set by the ids of their samples.

    Raises:
        ValueError: it is not there any more, is another one by now, or its ids do not tell images apart.
    """
    paths: Mapping[str, Any] = entry.result.get("paths", {})
    if not paths.get(name):
        raise ValueError("the evaluation does not say where they were read from")
    dataset = open_dataset(resolve_path(paths[name]), need_classes=False)
    stamp = read_stamp(entry.run.evaluation / "predictions" / f"{name}.parquet").get("predictions", {})
    if stamp and stamp["data"] != content_hash(dataset):
        raise ValueError(f"{dataset.path} holds other images than those that were evaluated")
    ids = Selection(dataset, 1).sample_ids()
    order = np.argsort(ids, kind="stable")
    first, last = (np.searchsorted(ids[order], sample_ids, side) for side in ("left", "right"))
    if (last - first != 1).any():
        raise ValueError(f"{dataset.path} lacks some of the images, or their sample_id repeats")
    numbers = order[first]
    rows = {row.number: row for row in read_rows(dataset, np.sort(numbers))}
    return [rows[number] for number in numbers.tolist()]
