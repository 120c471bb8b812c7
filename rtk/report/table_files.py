"""Tables of evaluated runs as files: CSV, JSON, Markdown, LaTeX or HTML.

CSV and JSON hold fractions, for programs; the others show what papers show, x100 or x1000, the best score of
each set in bold.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rtk.config.errors import ConfigError
from rtk.config.metric_names import larger_is_better
from rtk.report.markup import latex_text, markdown_text
from rtk.report.tables import ERROR_METRICS, METRICS, OOD_METRICS, Row, format_value


def write_table(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows in the format that the file's ending names.

    Raises:
        ConfigError: the ending is none of csv, json, md, tex, html.
    """
    form = FORMATS.get(path.suffix.removeprefix("."))
    if form is None:
        raise ConfigError(f"{path}: got the ending {path.suffix!r}, wanted one of {', '.join(FORMATS)}")
    path.write_text(form(rows), encoding="utf-8")
    return path


def as_csv(rows: Sequence[Row]) -> str:
    """Comma-separated fractions."""
    plain = [row.plain() for row in rows]
    names = list(dict.fromkeys(name for row in plain for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return buffer.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """A list of objects with fractions."""
    return json.dumps([row.plain() for row in rows], indent=1)


def as_markdown(rows: Sequence[Row]) -> str:
    """A pipe table for each kind of set."""
    parts = []
    for headings, body in _shown(rows, markdown_text, "**{}**".format):
        lines = [headings, ["---"] * len(_labels(rows)) + ["---:"] * (len(headings) - len(_labels(rows)))]
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, *body]))
    return "\n\n".join(parts) + "\n"


def as_latex(rows: Sequence[Row]) -> str:
    """`tabular` environments for the package booktabs."""
    parts = []
    for headings, body in _shown(rows, latex_text, "\\textbf{{{}}}".format):
        columns = "l" * len(_labels(rows)) + "r" * (len(headings) - len(_labels(rows)))
        lines = [" & ".join(cells) + r" \\" for cells in [headings, *body]]
        inner = "\n".join([r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"])
        parts.append(f"\\begin{{tabular}}{{{columns}}}\n{inner}\n\\end{{tabular}}")
    return "\n\n".join(parts) + "\n"


def as_html(rows: Sequence[Row]) -> str:
    """`<table>` elements."""
    parts = []
    for headings, body in _shown(rows, html.escape, "<b>{}</b>".format):
        head = "".join(f"<th>{text}</th>" for text in headings)
        lines = ["<tr>" + "".join(f"<td>{text}</td>" for text in cells) + "</tr>" for cells in body]
        parts.append("\n".join(["<table>", f"<tr>{head}</tr>", *lines, "</table>"]))
    return "\n".join(parts) + "\n"


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "csv": as_csv,
    "json": as_json,
    "md": as_markdown,
    "tex": as_latex,
    "html": as_html,
}


def _shown(
    rows: Sequence[Row], written: Callable[[str], str], mark: Callable[[str], str]
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Headings and cells of the test rows, then of the OOD rows; the best of each set and run are marked.

    `written` is how a text is written in the format.
    """
    labels = _labels(rows)
    for metrics, is_id in ((ERROR_METRICS, True), (OOD_METRICS, False)):
        chosen = [row for row in rows if (row.group == "id") == is_id]
        keys = [key for key in metrics if any(key in row.metrics for row in chosen)]
        if not chosen:
            continue
        body = []
        for row in chosen:
            cells = [
                mark(text) if key != "accuracy" and _is_best(row, key, chosen) else text
                for key in keys
                for text in [written(format_value(key, row.metrics.get(key), row.spread.get(key)))]
            ]
            body.append([written(getattr(row, name)) for name in labels] + cells)
        yield [*labels, *(written(METRICS[key].heading) for key in keys)], body


def _labels(rows: Sequence[Row]) -> list[str]:
    """Key columns that are shown: the run only where there are several."""
    return [name for name in ("run", "set", "score") if name != "run" or len({row.run for row in rows}) > 1]


def _is_best(row: Row, key: str, rows: Sequence[Row]) -> bool:
    rivals = [
        other.metrics[key]
        for other in rows
        if (other.run, other.set) == (row.run, row.set) and key in other.metrics
    ]
    best = max if larger_is_better(key) else min
    return len(rivals) > 1 and row.metrics.get(key) == best(rivals)
