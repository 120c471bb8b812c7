"""Pooled tables: the same figures in five formats."""

from __future__ import annotations

import csv
import io
import json
import re
from xml.etree import ElementTree

import pytest

from rtk.config import ConfigError
from rtk.report.table_files import FORMATS, write_table
from rtk.report.tables import (
    HEADLINE,
    format_value,
    how_shown,
    metric_rows,
    pooled_rows,
    score_rows,
)


def ood(auroc: float) -> dict[str, float]:
    return {"auroc": auroc, "fpr95": 0.5, "aupr_in": 0.6, "aupr_out": 0.4, "ds_f1": 0.7, "ds_aurc": 0.0312}


RESULT = {
    "summary": {"accuracy": 0.9, "aurc": 0.02, "auroc_near": 0.81},
    "test": {
        "msp": {"accuracy": 0.9, "aurc": 0.02, "auroc_errors": 0.8},
        "soft_margin": {"accuracy": 0.9, "aurc": 0.03, "auroc_errors": 0.9},
    },
    "sets": {
        "cats": {"msp": ood(0.8), "soft_margin": ood(0.7)},
        "dogs": {"msp": ood(0.6), "soft_margin": ood(0.9)},
    },
    "scores": {"msp": {"auroc_near": 0.7}, "soft_margin": {"auroc_near": 0.8}},
    "groups": {"cats": "near", "dogs": "near"},
}


@pytest.mark.parametrize(
    ("key", "value", "spread", "text"),
    [
        ("accuracy", 0.98765, None, "98.77"),
        ("ds_aurc_near", 0.0312, None, "31.20"),
        ("auroc", 0.5, [0.4, 0.6], "50.00 [40.00, 60.00]"),
        ("auroc", 0.5, 0.01, "50.00 ± 1.00"),
        ("auroc", None, None, "–"),
        ("aurc", [0.01, 0.03], None, "20.00 ± 14.14"),
    ],
)
def test_values_are_shown_as_in_papers(key, value, spread, text):
    assert format_value(key, value, spread) == text


def test_every_headline_metric_has_a_heading():
    assert how_shown("ds_aurc_far").heading == "DS-AURC far ‰"
    assert len({how_shown(key).heading for key in HEADLINE}) == len(HEADLINE)


def test_rows_are_sets_by_scores_and_means_of_groups():
    rows = pooled_rows({"run": RESULT})
    assert [(row.set, row.score) for row in rows] == [
        (name, score) for name in ("test", "cats", "dogs", "near (mean)") for score in ("msp", "soft_margin")
    ]
    assert rows[0].metrics == {"accuracy": 0.9, "aurc": 0.02, "auroc_errors": 0.8}
    assert rows[-1].metrics == {"auroc": 0.8}


def test_the_full_spectrum_has_rows_of_its_own_beside_the_standard_ones():
    full = {key: RESULT[key] for key in ("summary", "test", "scores", "sets")}
    full = {**full, "csid": {"v2": {"msp": {"accuracy": 0.7, "aurc": 0.1}}}}
    rows = pooled_rows({"run": {**RESULT, "full_spectrum": full}})
    standard = pooled_rows({"run": RESULT})
    assert rows[: len(standard)] == standard
    added = [(row.set, row.group, row.score) for row in rows[len(standard) :]]
    assert added[0] == ("v2 (csid)", "id", "msp")
    assert added[1:] == [(f"{row.set} (full spectrum)", row.group, row.score) for row in standard]


def test_csv_and_json_hold_the_fractions():
    rows = pooled_rows({"run": RESULT})
    plain = json.loads(FORMATS["json"](rows))
    read = list(csv.DictReader(io.StringIO(FORMATS["csv"](rows))))
    assert len(plain) == len(read) == 8
    for left, right in zip(plain, read, strict=True):
        assert {key: str(value) for key, value in left.items()} == {k: v for k, v in right.items() if v}
    assert plain[3] == {"run": "run", "set": "cats", "group": "near", "score": "soft_margin", **ood(0.7)}


def test_intervals_stand_beside_their_values():
    spread = {"sets": {"cats": {"msp": {"auroc": [0.75, 0.85]}}}, "test": {"msp": {"accuracy": [0.8, 1.0]}}}
    rows = pooled_rows({"run": {**RESULT, "intervals": spread}})
    plain = json.loads(FORMATS["json"](rows))
    assert (plain[0]["accuracy_low"], plain[0]["accuracy_high"]) == (0.8, 1.0)
    assert (plain[2]["auroc_low"], plain[2]["auroc_high"]) == (0.75, 0.85)
    assert "80.00 [75.00, 85.00]" in FORMATS["md"](rows)
    splits = pooled_rows({"run": {**RESULT, "std": {"sets": {"cats": {"msp": {"auroc": 0.05}}}}}})
    assert json.loads(FORMATS["json"](splits))[2]["auroc_std"] == 0.05
    assert "80.00 $\\pm$ 5.00" in FORMATS["tex"](splits)


def test_markdown_has_cells_in_columns_and_marks_the_best_of_each_set():
    tables = FORMATS["md"](pooled_rows({"run": RESULT})).strip().split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| cats | msp | **80.00** |" in tables[1]
    assert "| dogs | soft_margin | **90.00** |" in tables[1]
    assert "| test | msp | 90.00 | **20.00** | 80.00 |" in tables[0]


def test_latex_escapes_and_has_cells_for_every_column():
    for table in FORMATS["tex"](pooled_rows({"run": RESULT})).strip().split("\n\n"):
        columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", table)
        assert columns is not None
        body = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r"(?<!\\)&", line)) for line in body} == {len(columns.group(1))}
        assert r"soft\_margin" in table
        assert not re.search(r"(?<!\\)[%_]", table)


def test_a_name_with_markup_in_it_stays_one_cell():
    name = "a|b & {c}_"
    groups = {name: "near", "dogs": "near"}
    sets = {name: RESULT["sets"]["cats"], "dogs": RESULT["sets"]["dogs"]}
    rows = pooled_rows({"run": {**RESULT, "sets": sets, "groups": groups}})
    assert r"| a\|b \& {c}\_ | msp | **80.00** |" in FORMATS["md"](rows)
    assert r"a\textbar{}b \& \{c\}\_ & msp & \textbf{80.00} &" in FORMATS["tex"](rows)
    assert "<td>a|b &amp; {c}_</td><td>msp</td><td><b>80.00</b></td>" in FORMATS["html"](rows)


def test_html_is_well_formed_and_names_runs_only_where_there_are_several():
    one, two = (
        FORMATS["html"](pooled_rows(results)) for results in ({"a": RESULT}, {"a<b": RESULT, "c": RESULT})
    )
    tables = ElementTree.fromstring(f"<page>{two}</page>").findall("table")
    assert [len(table.findall("tr")) for table in tables] == [5, 13]
    assert "<td>a&lt;b</td>" in two
    assert "<th>run</th>" not in one


def test_format_is_named_by_the_ending(tmp_path):
    rows = pooled_rows({"run": RESULT})
    for ending in ("csv", "json", "md", "tex", "html"):
        assert write_table(tmp_path / f"t.{ending}", rows).read_text() == FORMATS[ending](rows)
    with pytest.raises(ConfigError, match=r"'.xlsx', wanted one of csv, json"):
        write_table(tmp_path / "t.xlsx", rows)


def test_terminal_tables_leave_out_what_no_column_has():
    rows = metric_rows({"a": RESULT["summary"], "b": {"accuracy": [0.8, 0.9]}})
    assert rows[0] == ["", "a", "b"]
    assert [row[0] for row in rows[1:]] == ["accuracy %", "AURC ‰", "AUROC near %"]
    assert rows[1][2] == "85.00 ± 7.07"
    assert score_rows(RESULT)[0] == ["score", "AURC ‰", "AUROC near %"]
