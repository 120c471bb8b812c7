"""A leaderboard in the terminal, and as Markdown, LaTeX or a page whose columns can be sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rtk.config.errors import ConfigError
from rtk.report.leaderboard import Board, BoardRow, Column
from rtk.report.markup import latex_text, markdown_text
from rtk.report.page import write_page
from rtk.report.published import SOURCE
from rtk.report.tables import format_value

ENDINGS = (".md", ".tex", ".html")
WORSE = "†"
MEANING = (
    f"{WORSE} significantly worse than the best of its column (95 %, that pair alone): over the seeds that "
    "both have by a paired t-test, else over the images by DeLong's test or a paired bootstrap."
)


def checked_paths(names: Iterable[str]) -> list[Path]:
    """Files to write a board to.

    Raises:
        ConfigError: one ends in none of md, tex, html.
    """
    paths = [Path(name) for name in names]
    for path in paths:
        if path.suffix not in ENDINGS:
            raise ConfigError(f"--out: got {path}, wanted a name that ends in {', '.join(ENDINGS)}")
    return paths


def write_board(path: Path, board: Board, title: str) -> Path:
    """Write a board in the format that the ending of a file of `checked_paths` names."""
    if path.suffix == ".html":
        return write_page(path, "leaderboard_page.html", **page_content(board, title))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_markdown(board) if path.suffix == ".md" else as_latex(board), encoding="utf-8")
    return path


def cell_text(board: Board, row: BoardRow, column: Column) -> str:
    """Mean ± standard deviation over seeds, and the mark."""
    text = format_value(column.metric, row.mean(column), row.std(column))
    return f"{text} {WORSE}" if any(row is one for one in board.worse.get(column, ())) else text


def as_rows(board: Board) -> list[list[str]]:
    """The board as text, headings first; the best of each column has a star."""
    table = [["method", "score", *(column.heading for column in board.columns)]]
    for row in (*board.rows, *board.published):
        cells = [
            cell_text(board, row, column) + " *" * (board.best.get(column) is row) for column in board.columns
        ]
        table.append([row.method, row.score, *cells])
    return table


def as_markdown(board: Board) -> str:
    """A pipe table; the best of each column in bold."""
    lines = [
        "| " + " | ".join(["method", "score", *(markdown_text(c.heading) for c in board.columns)]) + " |"
    ]
    lines.append("| --- | --- |" + " ---: |" * len(board.columns))
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(board, markdown_text, "**{}**".format)]
    notes = [MEANING, *([f"{SOURCE}."] if board.published else [])]
    return "\n".join([*lines, "", *notes]) + "\n"


def as_latex(board: Board) -> str:
    """A `tabular` for the package booktabs, published rows below a rule of their own."""
    headings = ["method", "score", *(latex_text(column.heading) for column in board.columns)]
    lines = [" & ".join(cells) + r" \\" for cells in _cells(board, latex_text, "\\textbf{{{}}}".format)]
    lines = [line.replace(WORSE, r"$^\dagger$") for line in lines]
    own, others = lines[: len(board.rows)], lines[len(board.rows) :]
    body = [r"\toprule", " & ".join(headings) + r" \\", r"\midrule", *own]
    body += [r"\midrule", *others] if others else []
    inner = "\n".join([*body, r"\bottomrule"])
    return f"\\begin{{tabular}}{{ll{'r' * len(board.columns)}}}\n{inner}\n\\end{{tabular}}\n"


def _cells(board: Board, written: Callable[[str], str], mark: Callable[[str], str]) -> list[list[str]]:
    table = []
    for row in (*board.rows, *board.published):
        texts = [written(cell_text(board, row, column)) for column in board.columns]
        best = [board.best.get(column) is row for column in board.columns]
        cells = [mark(text) if is_best else text for text, is_best in zip(texts, best, strict=True)]
        table.append([written(row.method), written(row.score), *cells])
    return table


def page_content(board: Board, title: str) -> dict[str, Any]:
    """What the page shows; a cell has the number that its column is sorted by."""
    rows = [
        {
            "method": row.method,
            "score": row.score,
            "published": not row.runs,
            "cells": [
                {
                    "text": cell_text(board, row, column),
                    "value": "" if (mean := row.mean(column)) is None else repr(mean),
                    "best": board.best.get(column) is row,
                }
                for column in board.columns
            ],
        }
        for row in (*board.rows, *board.published)
    ]
    return {
        "title": title,
        "headings": [(column.heading, column.better < 0) for column in board.columns],
        "rows": rows,
        "meaning": MEANING,
        "source": SOURCE if board.published else "",
        "unlike": list(board.unlike),
        "ranked": bool(board.best),
    }


def as_records(board: Board) -> list[dict[str, Any]]:
    """A record of each row, for programs: fractions by `metric/place`."""
    return [
        {
            "method": row.method,
            "score": row.score,
            "seeds": sorted(row.runs),
            "published": not row.runs,
            "cells": {
                f"{column.metric}/{column.place}": {
                    "mean": row.mean(column),
                    "std": row.std(column),
                    "best": board.best.get(column) is row,
                    "worse": any(row is one for one in board.worse.get(column, ())),
                }
                for column in board.columns
                if row.mean(column) is not None
            },
        }
        for row in (*board.rows, *board.published)
    ]
