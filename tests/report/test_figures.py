"""What figures state is what they show: areas, colours of runs, thresholds, epochs."""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest

from rtk.evaluate.corruptions import write_rows
from rtk.report.curves import area
from rtk.report.evaluated import EvaluatedRun
from rtk.report.figures import (
    corruption_figures,
    f1_figures,
    risk_coverage_figures,
    score_figures,
    training_figures,
)
from rtk.report.plot_style import COLOURS
from rtk.runs.folder import RunFolder
from tests.report import drawn
from tests.report.conftest import SETS


def with_rule(entry: EvaluatedRun, **rule: float) -> EvaluatedRun:
    decision = {"risk": 0.1, "reached": True, **rule}
    return EvaluatedRun(
        entry.run, entry.label, entry.result | {"decision": decision}, entry.table, entry.number
    )


def test_the_area_of_the_plotted_points_is_what_is_stated(make_run, read):
    evaluated = read(make_run("one"), make_run("two", seed=1, skill=0.05))
    keys = ("aurc", "ds_aurc_near", "ds_aurc_far")
    for key, (svg, caption) in zip(keys, risk_coverage_figures(evaluated), strict=True):
        stated = [float(text) for text in re.findall(r"([\d.]+) ‰", caption)]
        for entry in evaluated:
            found = 1000 * area(drawn.points(svg, entry.number))
            assert found == pytest.approx(1000 * entry.result["summary"][key], abs=2e-3)
            assert stated[entry.number] == pytest.approx(found, abs=6e-3)
    assert "mean over the near sets" in list(risk_coverage_figures(evaluated))[1].caption


def test_a_table_of_other_origin_is_told_from_the_area(make_run, read):
    (entry,) = read(make_run("one"))
    entry.result["summary"]["aurc"] = 0.5
    caption = next(risk_coverage_figures([entry])).caption
    assert re.search(r"AURC: \d+\.\d\d ‰ \(in the summary 500\.00\)", caption)


def test_corrupted_images_of_other_origin_are_told(make_run, read):
    runs = [make_run("one"), make_run("two", seed=1)]
    clean = {"step": 8, "corruption": "none", "severity": 0, "images": 9, "accuracy": 0.9}
    for run in runs:
        write_rows(run.evaluation, [clean, {**clean, "corruption": "fog", "severity": 1, "accuracy": 0.8}])
    entry, other = read(*runs)
    caption = next(corruption_figures([entry, other])).caption
    assert "Not on the same" not in caption
    entry.result.update({"corrupted_sets": "data/cifar100_c", "corrupted_data": "abc"})
    caption = next(corruption_figures([entry, other])).caption
    assert "not to be compared: one data/cifar100_c (9 of each), two rtk's own (9 of each)." in caption
    other.result.update({"corrupted_sets": "copies/cifar100_c", "corrupted_data": "abc"})
    assert "Not on the same" not in next(corruption_figures([entry, other])).caption
    write_rows(other.run.evaluation, [{**clean, "images": 5}])
    assert "two copies/cifar100_c (5 of each)." in next(corruption_figures([entry, other])).caption


def test_a_run_has_one_colour_in_every_figure_also_where_others_lack_it(make_run, read):
    runs = [
        make_run("one", sets={"noise": SETS["noise"]}),
        make_run("two", seed=1, sets={"cats": SETS["cats"]}),
        make_run("three", seed=2),
    ]
    rows = [{"step": 8, "corruption": "none", "severity": 0, "images": 9, "accuracy": 0.9}]
    rows += [{**rows[0], "corruption": "fog", "severity": level, "accuracy": 0.8} for level in range(1, 6)]
    write_rows(runs[1].evaluation, rows)
    evaluated = read(*runs)
    (corrupted,) = corruption_figures(evaluated)
    assert drawn.colour(corrupted.svg, 1) == COLOURS[1]
    assert "two" in drawn.texts(corrupted.svg)  # a legend, though there is one line
    assert "Not measured: one, three." in corrupted.caption
    assert drawn.points(corrupted.svg, 1)[1] == pytest.approx([90, 80, 80, 80, 80, 80], abs=1e-3)
    shown = {"alone": (0, 1, 2), "near": (1, 2), "far": (0, 2)}
    for numbers, figure in zip(shown.values(), risk_coverage_figures(evaluated), strict=True):
        assert [drawn.colour(figure.svg, number) for number in numbers] == [COLOURS[n] for n in numbers]
    *_, reliable = score_figures(evaluated[2])
    assert COLOURS[2] in reliable.svg
    assert COLOURS[0] not in reliable.svg


def test_scores_have_the_same_colour_in_both_roc_figures(make_run, read):
    figures = [figure for figure in score_figures(read(make_run("one"))[0]) if "ROC" in figure.svg]
    legends = [[text for text in drawn.texts(figure.svg) if text in ("msp", "knn")] for figure in figures]
    assert legends == [["knn", "msp"]] * 2
    assert "the 2 near sets are one" in figures[0].caption


def test_the_stated_calibration_error_is_that_of_the_drawn_bins(make_run, read):
    (entry,) = read(make_run("one"))
    *_, figure = score_figures(entry)
    bins = entry.result["calibration"]["reliability"]
    weights = np.array(bins["count"]) / np.sum(bins["count"])
    gap = np.sum(weights * np.abs(np.subtract(bins["accuracy"], bins["confidence"])))
    assert f"Reliability: ECE {gap:.3f}" in drawn.texts(figure.svg)
    assert "An ECE of 10.0 % is large" in figure.caption


def test_thresholds_are_drawn_where_there_are_any(make_run, read):
    (entry,) = read(make_run("one", sets={"noise": SETS["noise"]}))
    ruled = with_rule(entry, tau_id=0.625, tau_ood=-0.5)
    shown, without = (
        [drawn.texts(figure.svg) for figure in islice(score_figures(one), 2)] for one in (ruled, entry)
    )
    assert "accepted ≥ 0.625" in shown[0]
    assert "accepted ≥ -0.5" in shown[1]  # below all scores: drawn at the edge
    assert not any("accepted" in text for texts in without for text in texts)
    for one, wanted in ((entry, False), (ruled, True)):
        (flat,), (solid,) = f1_figures(one)
        assert ("decision rule" in drawn.texts(flat.svg)) == wanted
        assert "F1" in drawn.texts(solid.svg)


def test_epochs_are_whole_and_the_evaluated_one_is_marked(make_run, read):
    run = make_run("one")
    for epoch in (1, 2, 3):
        run.append_metrics(4 * epoch, epoch, {"train/loss/cross_entropy": 1 / epoch, "val/accuracy": 0.5})
    loss, accuracy = training_figures(read(run)[0])
    for figure in (loss, accuracy):
        assert "evaluated: epoch 2" in drawn.texts(figure.svg)
        assert set(drawn.marks(figure.svg, "x")) == {"1", "2", "3"}
    assert drawn.points(accuracy.svg, 0)[1] == pytest.approx([50, 50, 50], abs=1e-3)


def test_infinite_scores_are_drawn_and_change_no_area(make_run, read):
    run = make_run("one", sets={"noise": SETS["noise"]})
    (entry,) = read(run)
    values = entry.table["knn"].to_numpy().copy()
    values[values.argmin()] = -np.inf
    place = entry.table.column_names.index("knn")
    table = entry.table.set_column(place, "knn", [values])
    infinite = EvaluatedRun(RunFolder(run.path), "one", entry.result, table)
    assert len(list(score_figures(infinite))) == 4
    assert len(f1_figures(infinite)[0]) == 1
    for ours, theirs in zip(risk_coverage_figures([infinite]), risk_coverage_figures([entry]), strict=True):
        assert ours.caption == theirs.caption  # the ranks are the same
