"""OpenOOD's own figures, beside those of a leaderboard where suite and backbone are theirs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from rtk.config.model import ModelConfig
from rtk.report.leaderboard import BoardRow, Column

SOURCE = "OpenOOD's leaderboard, github.com/zjysteven/OpenOOD, commit 28d3a40"
# Its names of backbones, by rtk's; other widths are other networks.
BACKBONES = {
    "resnet18": "ResNet18",
    "resnet50": "ResNet50",
    "timm/vit_base_patch16_224": "ViT-B/16",
    "timm/swin_tiny_patch4_window7_224": "Swin-T",
    "timm/regnety_160": "RegNet_Y_16GF",
}


def published_rows(
    suite: str | None, models: Iterable[ModelConfig], scores: Iterable[str], columns: Sequence[Column]
) -> list[BoardRow]:
    """OpenOOD's rows of some scores for a suite made of its image lists, and for the backbones of some runs.

    None for other suites, other backbones or another metric than AUROC.

    Args:
        suite: name of the suite.
        models: the networks of the board.
        scores: of the board.
        columns: of the board.
    """
    names = {BACKBONES.get(one.name.partition(".")[0]) for one in models if one.width is None}
    wanted, places = set(scores), {(column.metric, column.place): column for column in columns}
    cells = {("auroc", "near"): "near", ("auroc", "far"): "far", ("accuracy", "test"): "accuracy"}
    shown = {place: prefix for place, prefix in cells.items() if place in places}
    if ("auroc", "near") not in shown and ("auroc", "far") not in shown:
        return []
    by_column = {places[place]: prefix for place, prefix in shown.items()}
    return [
        _board_row(row, by_column)
        for row in _stored()
        if row["suite"] == suite and row["backbone"] in names and row["score"] in wanted
    ]


def _board_row(row: Mapping[str, str], shown: Mapping[Column, str]) -> BoardRow:
    """A row of the file with means and standard deviations as fractions, by column."""
    mean = {"near": "near_auroc", "far": "far_auroc", "accuracy": "accuracy"}
    values = {c: [float(row[mean[p]]) / 100] for c, p in shown.items() if row[mean[p]]}
    spread = {c: float(row[f"{p}_std"]) / 100 for c, p in shown.items() if row[f"{p}_std"]}
    method = f"OpenOOD: {row['training']}, {row['backbone']}, {row['note']}"
    return BoardRow(method, row["score"], values, spread=spread)


@cache
def _stored() -> tuple[dict[str, str], ...]:
    """Every row of the file."""
    return tuple(read_published(Path(str(resources.files("rtk") / "report" / "openood_leaderboard.csv"))))


def read_published(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a file of published figures, without the comments that say where they are from."""
    with path.open(encoding="utf-8") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))
