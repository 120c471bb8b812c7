"""The leaderboard: what its cells are, which is best, which are worse, and the files that it becomes."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from rtk.cli import main
from rtk.config.model import ModelConfig
from rtk.report.evaluated import EvaluatedRun
from rtk.report.leaderboard import Board, BoardRow, Column, is_worse, make_board, paired_t
from rtk.report.leaderboard_files import WORSE, as_latex, as_markdown, as_records, as_rows, write_board
from rtk.report.published import published_rows
from rtk.runs.results import Group, group_by_seed, read_entry, read_result
from rtk.scores import SCORES

NEAR, FAR = Column("AUROC near %", "auroc", "near"), Column("AUROC far %", "auroc", "far")
ACCURACY = Column("accuracy %", "accuracy", "test")


@pytest.fixture
def board(make_run) -> Board:
    """Three seeds of one method, and one run of another."""
    seeds = [make_run(f"sure-seed{n}", seed=n, overrides=(f"seed={n}",)) for n in range(3)]
    other = make_run("rat", seed=1, overrides=("objective.rat.weight=1",))
    entries = [read_entry(run) for run in (*seeds, other)]
    scores = {entry.name: ("msp", "knn") for entry in entries}
    return make_board(group_by_seed(entries), scores)


def test_cells_are_those_of_the_evaluations(board):
    rows = {(row.method, row.score): row for row in board.rows}
    assert rows.keys() == {(m, s) for m in ("sure", "rat") for s in ("msp", "knn")}
    headings = [column.heading for column in board.columns]
    assert headings == ["accuracy %", "AURC ‰", "AUROC near %", "cats %", "dogs %", "AUROC far %"]
    runs = rows["sure", "knn"].runs
    results = [read_result(run.run) for run in runs.values()]
    near = [result["scores"]["knn"]["auroc_near"] for result in results]
    assert rows["sure", "knn"].mean(NEAR) == pytest.approx(np.mean(near))
    assert rows["sure", "knn"].std(NEAR) == pytest.approx(np.std(near, ddof=1))
    cats = Column("cats %", "auroc", "cats")
    assert rows["rat", "msp"].values[cats] == [
        read_result(r.run)["sets"]["cats"]["msp"]["auroc"] for r in rows["rat", "msp"].runs.values()
    ]
    assert rows["rat", "msp"].std(cats) is None
    means = [row.mean(NEAR) for row in board.rows]
    assert means == sorted(means, reverse=True)
    assert board.best[NEAR] is board.rows[0]


def test_seeds_are_compared_by_a_paired_t_test(board):
    rows = {(row.method, row.score): row for row in board.rows}
    one, two = rows["sure", "msp"], rows["sure", "knn"]
    for column in board.columns:
        values = [np.array(row.values[column]) for row in (one, two)]
        gains = column.better * (values[1] - values[0])
        found = paired_t(gains)
        assert found.estimate == pytest.approx(gains.mean())
        if gains.std() > 0:
            p = ttest_rel(gains, np.zeros(3)).pvalue
            assert is_worse(one, two, column) == (p < 0.05 and gains.mean() > 0)
    assert paired_t([0.1]) is None
    certain = paired_t([0.1, 0.1 + 1e-9])
    assert certain.low > 0
    assert paired_t([0.1, 0.2]).low < 0  # two seeds say little


@pytest.mark.parametrize(
    ("gains", "wanted"),
    [((0.02, 0.03, 0.025), True), ((-0.03, 0.05, 0.02), False), ((0.02, 0.02), True), ((0.01, 0.03), False)],
)
def test_every_seed_counts(make_run, read, gains, wanted):
    """Also where the last one alone, or the means, would say otherwise."""
    (made,) = read(make_run("one"))

    def row(score, values):
        runs = {
            seed: replace(made, result={**made.result, "scores": {score: {"auroc_near": value}}})
            for seed, value in enumerate(values)
        }
        return BoardRow("m", score, {NEAR: values}, runs)

    base = [0.7, 0.8, 0.6][: len(gains)]
    ahead = [value + gain for value, gain in zip(base, gains, strict=True)]
    assert is_worse(row("msp", base), row("knn", ahead), NEAR) == wanted


def test_single_runs_are_compared_over_their_images(board):
    row = {(row.method, row.score): row for row in board.rows}
    one, two = row["rat", "msp"], row["rat", "knn"]
    better, worse = (one, two) if one.mean(FAR) > two.mean(FAR) else (two, one)
    assert not is_worse(better, worse, FAR)
    run = next(iter(better.runs.values()))
    place = run.table.column_names.index("knn")
    chance = np.random.default_rng(0).random(len(run.table))
    noise = EvaluatedRun(run.run, run.label, run.result, run.table.set_column(place, "knn", [chance]))
    assert is_worse(
        BoardRow("noise", "knn", better.values, {1: noise}), BoardRow("b", "msp", {}, {1: run}), FAR
    )
    # Of other images nothing can be said, and nothing of the accuracy over images.
    other = next(iter(row["sure", "knn"].runs.values()))
    assert not is_worse(BoardRow("x", "knn", {}, {1: noise}), BoardRow("y", "msp", {}, {0: other}), FAR)
    assert not is_worse(one, two, ACCURACY)


def test_lower_is_better_for_other_metrics(make_run):
    entries = [read_entry(make_run("one"))]
    made = make_board([Group("one", tuple(entries))], {"one": ("msp", "knn")}, "fpr95")
    column = next(c for c in made.columns if c.place == "near")
    assert made.rows[0].mean(column) == min(row.mean(column) for row in made.rows)


def test_files_hold_the_same(board, tmp_path):
    worse = {NEAR: [board.rows[-1]]}
    marked = Board(board.columns, board.rows, board.best, worse)
    top, last = f"{board.rows[0].mean(NEAR) * 100:.2f}", f"{board.rows[-1].mean(NEAR) * 100:.2f}"
    markdown, latex = as_markdown(marked), as_latex(marked)
    assert re.search(rf"\*\*{top}[^|]*\*\*", markdown)
    assert re.search(rf"{last}[^|]*{WORSE}", markdown)
    assert re.search(rf"\\textbf\{{{top}[^&]*\}}", latex)
    assert r"$^\dagger$" in latex
    text = as_rows(marked)
    assert len(text) == 5
    assert any(cell.startswith(top) and cell.endswith(" *") for cell in text[1])
    page = write_board(tmp_path / "board.html", marked, "mine").read_text(encoding="utf-8")
    assert f'data-value="{board.rows[0].mean(NEAR)!r}" class="best"' in page
    assert page.count("<th data-up=") == 8
    record = as_records(marked)[-1]["cells"]["auroc/near"]
    assert record["mean"] == board.rows[-1].mean(NEAR)
    assert record["worse"]


def test_openoods_figures_stand_beside_runs_of_its_suites_and_backbones():
    columns = [ACCURACY, NEAR, FAR]
    found = published_rows("openood_cifar100", [ModelConfig()], ["msp", "knn"], columns)
    rows = {row.method.split(",")[0]: row for row in found if row.score == "msp"}
    row = rows["OpenOOD: CrossEntropy"]
    means = [row.mean(column) for column in (NEAR, FAR, ACCURACY)]
    assert means == pytest.approx([0.8027, 0.7776, 0.7725])
    assert row.std(NEAR) == pytest.approx(0.0011)
    assert {one.score for one in found} == {"msp", "knn"}
    assert published_rows("openood_cifar100", [ModelConfig(width=16)], ["msp"], columns) == []
    assert published_rows("cifar100_small", [ModelConfig()], ["msp"], columns) == []
    assert published_rows("openood_cifar100", [ModelConfig()], ["msp"], [ACCURACY]) == []
    every = published_rows("openood_imagenet", [ModelConfig(name="resnet50")], SCORES, columns)
    assert {row.score for row in every} > {"ash", "nci", "mds_pp"}
    assert all(0.2 < value < 1 for row in every for values in row.values.values() for value in values)


def test_a_board_needs_a_name_that_says_its_format(make_run, capsys):
    run = make_run("one")
    assert main(["leaderboard", str(run.path), "--out", "board.pdf"]) == 2
    assert "--out: got board.pdf, wanted a name that ends in .md, .tex, .html" in capsys.readouterr().err


def test_runs_measured_otherwise_are_not_ranked(make_run, tmp_path):
    entries = [read_entry(make_run("a")), read_entry(make_run("b", overrides=("train.duration=3ep",)))]
    scores = {entry.name: ("msp",) for entry in entries}
    made = make_board(group_by_seed(entries), scores, unlike=["test images: other"], ranked=False)
    assert [row.method for row in made.rows] == ["a", "b"]
    assert not made.best
    page = write_board(tmp_path / "b.html", made, "mine").read_text(encoding="utf-8")
    assert "test images: other" in page
    json.dumps(as_records(made))
