"""Runs that were not measured on the same are shown side by side, but not ranked."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.cli import main
from rtk.config import load_config
from rtk.report.comparison import compare
from rtk.report.likeness import Condition, conditions_of, unlike
from rtk.runs.folder import RunFolder
from rtk.runs.results import RESULT_KEYS

TEST = {"data": "a1" * 32, "rows": 40, "labels": "d4" * 32}
NEAR = {"data": "b2" * 32, "rows": 20}


@pytest.fixture
def make(tmp_path):
    """make(accuracy, measured_on={...}, classes=[...], ...) -> an evaluated run."""

    def run(accuracy, measured_on=None, classes=("x", "y"), data=None, **result):
        folder = RunFolder.create(
            load_config("digits_ce", [f"output={tmp_path}", f"optimizer.lr={accuracy}"])
        )
        folder.write_json("environment.json", {"data": data or {}, "classes": list(classes)})
        folder.append_metrics(5, 1.0, {"val/accuracy": accuracy})
        summary = {"accuracy": accuracy, "aurc": 0.1, "ds_aurc_near": 1 - accuracy}
        known = {
            **{key: {} for key in RESULT_KEYS},
            "summary": summary,
            "groups": {"near": "near"},
            "confidence": "msp",
            "ood_score": "knn",
            "ds_method": "exact",
            "protocol": {"name": "fixed", "hyperparameters": {"knn": {"k": 10}}},
            "measured_on": measured_on or {"test": TEST, "near": NEAR},
            "step": 5,
        }
        folder.write_json("evaluation/metrics.json", {**known, **result})
        scores = {name: np.linspace(0, 1, 20) for name in ("msp", "knn", "energy")}
        rows = {"set": ["test"] * 12 + ["near"] * 8, "group": ["id"] * 12 + ["near"] * 8}
        rows |= {
            "sample_id": range(20),
            "label": [0] * 20,
            "prediction": [int(n % 3 == 0) for n in range(20)],
            "is_correct": np.arange(20) % 3 > 0,
        }
        pq.write_table(pa.table({**rows, **scores}), folder.evaluation / "scores.parquet")
        return folder

    return run


def paths(*runs):
    return [str(run.path) for run in runs]


def test_alike_runs_are_ranked(make):
    worse, better = make(0.8), make(0.9)
    found = compare(paths(worse, better))
    assert (found.unlike, found.ranked) == ([], True)
    assert [group.label for group in found.groups] == [better.name, worse.name]


def test_names_and_orders_do_not_matter_but_contents_do(make):
    one = make(0.8, classes=["x", "y"])
    other = make(
        0.9, measured_on={"test": TEST, "digits": NEAR}, groups={"digits": "near"}, classes=["y", "x"]
    )
    assert compare(paths(one, other)).unlike == []


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (
            {"measured_on": {"test": {**TEST, "data": "ff" * 32}, "near": NEAR}},
            "test images: test a1a1a1a1 (40",
        ),
        ({"measured_on": {"test": {**TEST, "rows": 39}, "near": NEAR}}, "test images: "),
        ({"measured_on": {"test": {**TEST, "labels": "e5" * 32}, "near": NEAR}}, "names that the test's"),
        (
            {"measured_on": {"test": TEST, "near": {**NEAR, "data": "c3" * 32}}},
            "near-OOD images: near b2b2b2b2",
        ),
        ({"classes": ["x", "y", "z"]}, "number of classes: 2 in "),
        ({"classes": ["x", "w"]}, "class names: x, y in "),
        ({"confidence": "energy"}, "confidence: msp in "),
        ({"ood_score": "energy"}, "ood_score: knn in "),
        ({"ds_method": "grid"}, "ds_method: exact in "),
        ({"protocol": {"name": "aps", "hyperparameters": {}}}, "protocol: fixed in "),
        ({"protocol": {"name": "fixed", "hyperparameters": {"knn": {"k": 50}}}}, "k of knn: 10 in "),
    ],
)
def test_each_difference_is_named_and_nothing_is_ranked_unless_forced(make, change, about):
    worse, better = make(0.8), make(0.9, **change)
    found = compare(paths(worse, better))
    assert any(line.startswith(about) for line in found.unlike)
    assert not found.ranked
    assert [group.label for group in found.groups] == [worse.name, better.name]  # as given
    forced = compare(paths(worse, better), force=True)
    assert (forced.ranked, forced.unlike) == (True, found.unlike)
    assert [group.label for group in forced.groups] == [better.name, worse.name]


def test_metrics_of_validation_depend_on_validation_images_and_those_of_the_test_do_not(make):
    one, other = make(0.8, data={"train": "aa" * 32}), make(0.9, data={"train": "bb" * 32})
    assert compare(paths(one, other), metrics=["accuracy"]).unlike == []
    (line,) = compare(paths(one, other), metrics=["val/accuracy"]).unlike
    shares = (f"0.1 of train {digit * 8} in {run.name}" for digit, run in (("a", one), ("b", other)))
    assert line == f"validation images: {'; '.join(shares)}"


def test_a_set_that_no_shown_metric_is_about_does_not_count(make):
    other = make(0.9, measured_on={"test": TEST, "near": {**NEAR, "rows": 3}})
    assert compare(paths(make(0.8), other), metrics=["accuracy", "aurc"]).unlike == []


def test_the_command_warns_and_the_page_marks_none(make, tmp_path, capsys):
    runs = paths(make(0.8), make(0.9, confidence="energy"))
    page = tmp_path / "page.html"
    assert main(["compare", *runs, "--html", str(page), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["unlike"][0].startswith("confidence: msp in ")
    assert "warning: these runs were not measured on the same and are not ranked" in printed.err
    html = page.read_text()
    assert "These runs were not measured on the same." in html
    assert 'class="best"' not in html
    assert "In the order given" in html
    assert main(["compare", *runs, "--html", str(page), "--force"]) == 0
    assert "are ranked by --force only" in capsys.readouterr().err
    html = page.read_text()
    assert 'class="best"' in html
    assert "These runs were not measured on the same." in html


def test_what_a_run_does_not_say_is_not_compared():
    a, b = Condition(1, "one"), Condition(2, "two")
    assert unlike({"p": {"x": a}, "q": {"y": b}}) == []
    assert unlike({"p": {"x": a}, "q": {"x": a}, "r": {"x": b}}) == ["x: one in p, q; two in r"]


def test_older_evaluations_are_known_by_their_predictions():
    from tests.test_old_folders import OLD

    found = conditions_of(RunFolder.open(OLD / "run"), ["accuracy", "ds_aurc_near"])
    assert found["test images"].shown.endswith("images)")
    assert found["near-OOD images"].shown.startswith("digits89 ")
    assert found["number of classes"].value == 8
