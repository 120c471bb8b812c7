"""What a model said of images, as a table for programs and as a page of pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtk.data.image import BadImageError, open_image, to_rgb
from rtk.data.image_files import as_text
from rtk.report.gallery import SIDE, Picture, gallery
from rtk.report.page import write_page
from rtk.runs.atomic import replacing
from rtk.scores.decision import ACCEPT, DECISIONS, LIKELY_WRONG, UNFAMILIAR

CANDIDATES = "candidates"  # of models whose rule has sets of classes
COLUMNS = ("image", "decision", "label", "confidence", "ood_score", "probability", "error")
MOST = 1000  # pictures on a page: some 4 MB
MEANINGS = {
    ACCEPT: "of a known kind, and the label is likely right",
    LIKELY_WRONG: "of a known kind, but the label may well be wrong",
    UNFAMILIAR: "unlike what the model was trained on",
}


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a row for each image; bytes of a name that are no text are shown.

    Args:
        path: of the file; its folder exists.
        rows: of `predict_files`.
    """
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        named = [_as_csv(row) for row in rows]
        extra = [CANDIDATES] * any(CANDIDATES in row for row in named)
        writer = csv.DictWriter(file, [*COLUMNS, *extra])
        writer.writeheader()
        writer.writerows(named)


def _as_csv(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose cells are text: names of candidates are joined by a semicolon."""
    joined = {CANDIDATES: "; ".join(row[CANDIDATES] or [])} if CANDIDATES in row else {}
    return {**row, "image": as_text(row["image"]), **joined}


def write_sheet(
    path: Path,
    title: str,
    counts: str,
    rows: Sequence[dict[str, Any]],
    images: Iterable[bytes | BadImageError],
) -> None:
    """Write a page with the images under their decisions, the first `MOST` of them; every name is escaped.

    Args:
        path: of the page.
        title: name of the model.
        counts: of all images, in words.
        rows: of `predict_files`.
        images: encoded, one for each row; read one at a time.
    """
    shown: dict[str, list[Picture]] = {name: [] for name in DECISIONS}
    for row, image in zip(rows[:MOST], images, strict=False):
        if row["decision"] is not None and isinstance(image, bytes):
            shown[row["decision"]].append(Picture(_small(image), _lines(row)))
    write_page(
        path,
        "prediction_sheet.html",
        title=title,
        counts=counts,
        cut=MOST if len(rows) > MOST else None,
        sections=[(name, MEANINGS[name], gallery(pictures)) for name, pictures in shown.items() if pictures],
        unread=[(as_text(row["image"]), row["error"]) for row in rows if row["error"]],
    )


def _small(image: bytes) -> np.ndarray:
    """Pixels of the size that a gallery shows: the whole of many photographs would not fit into memory."""
    picture = to_rgb(open_image(image))
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _lines(row: dict[str, Any]) -> list[str]:
    scores = (f"{name} {row[key]:.4g}" for name, key in (("confidence", "confidence"), ("OOD", "ood_score")))
    may_be = [f"may be {', '.join(row[CANDIDATES])}"] if row.get(CANDIDATES) else []
    return [row["label"], *scores, *may_be, as_text(row["image"])]
