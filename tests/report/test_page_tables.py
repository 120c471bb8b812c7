from __future__ import annotations

import json

from rtk.report.comparison_table import heading, shown_difference, shown_metrics
from rtk.report.page_tables import (
    PAGE_WIDTH,
    Cell,
    Grid,
    fit_width,
    full_spectrum_table,
    headline_rows,
    score_set_table,
)
from rtk.runs.results import read_entry
from tests.report.conftest import SETS


def total(grid: Grid) -> float:
    return grid.name_width + sum(grid.widths)


def test_wide_tables_become_several_that_fit():
    columns = [f"set {number}" for number in range(30)]
    rows = [(name, [Cell("97.25", "[96.10, 98.30]")] * 30) for name in ("msp", "knn")]
    parts = fit_width(Grid(columns, rows, "AUROC %"), keep=1)
    assert len(parts) > 2
    assert all(total(part) <= PAGE_WIDTH for part in parts)
    assert all(part.columns[0] == "set 0" for part in parts)
    assert [name for part in parts for name in part.columns[1:]] == columns[1:]
    assert {len(cells) for part in parts for _, cells in part.rows} == {len(part.columns) for part in parts}


def test_small_tables_stay_whole():
    grid = Grid(["a", "b"], [("msp", [Cell("1"), Cell("2")])])
    assert fit_width(grid) == [grid]
    wide = Grid(["w" * 500], [("x" * 500, [Cell("y" * 500)])])
    assert len(fit_width(wide)) == 1  # one column cannot be cut


def test_many_sets_with_long_names_fit(make_run, read):
    sets = {f"{name}-{'long' * 4}-{number}": kind for number in range(6) for name, kind in SETS.items()}
    (entry,) = read(make_run("one", sets=sets))
    tables = score_set_table(entry, "auroc")
    assert sum(len(table.columns) for table in tables) == len(sets) + 2
    assert all(total(table) <= PAGE_WIDTH for table in tables)
    best = [cell for table in tables for cell in (dict(table.rows)["msp"][0], dict(table.rows)["knn"][0])]
    assert sum(cell.best for cell in best) == len(tables)


def test_headline_marks_the_best_of_several(make_run, read):
    evaluated = read(make_run("one"), make_run("two", skill=0.0))
    rows = {row["heading"]: row["cells"] for row in headline_rows(evaluated)}
    assert [cell.best for cell in rows["AURC ‰"]] == [True, False]
    assert not any(cell.best for row in headline_rows(evaluated[:1]) for cell in row["cells"])


def test_full_spectrum_stands_beside_the_standard_metrics_and_can_be_compared(make_run, read):
    run = make_run("one")
    assert full_spectrum_table(*read(run)) == []
    path = run.evaluation / "metrics.json"
    result = json.loads(path.read_text())
    summary = {key: value / 2 for key, value in result["summary"].items()}
    result["full_spectrum"] = {"summary": summary, "csid": {"v2": result["test"]}}
    path.write_text(json.dumps(result))
    both, alone = full_spectrum_table(*read(run))
    accuracy = result["summary"]["accuracy"]
    assert both.columns == ["test", "test and shifted"]
    assert both.rows[0][0] == "accuracy %"
    assert [cell.text for cell in both.rows[0][1]] == [f"{100 * accuracy:.2f}", f"{50 * accuracy:.2f}"]
    assert [name for name, _ in alone.rows] == ["test", "v2"]
    assert alone.rows[0][1] == alone.rows[1][1]
    entry = read_entry(run)
    assert entry.metrics["full_spectrum/accuracy"] == accuracy / 2
    assert "full_spectrum/auroc_near" in shown_metrics([entry], [])
    assert heading("full_spectrum/auroc_near") == "full spectrum AUROC near %"
    assert heading("val/aurc") == "val AURC ‰"
    assert shown_difference("full_spectrum/accuracy", 0.01) == "+1.00"
