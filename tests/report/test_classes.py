from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from rtk.report.classes import (
    MOST_IN_MATRIX,
    class_names,
    class_table,
    confusion_figure,
    confusions,
    pair_table,
)
from rtk.report.evaluated import EvaluatedRun
from tests.report import drawn

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTIONS = np.array([0, 1, 1, 1, 0, 2, 2, 1, 1])
NAMES = ("cat", "dog", "owl")


@pytest.fixture
def entry(make_run, read) -> EvaluatedRun:
    """Nine test images of three classes; the first of each is accepted by a rule."""
    (entry,) = read(make_run("one"))
    sure = np.array([1, 0, 0, 1, 0, 1, 0, 1, 0], float)
    columns = {"label": LABELS, "prediction": PREDICTIONS, "is_correct": LABELS == PREDICTIONS}
    same = {"set": ["test"] * 9, "group": ["id"] * 9, "sample_id": np.arange(9)}
    table = pa.table({**same, **columns, "msp": sure, "knn": np.ones(9)})
    rule = {"risk": 0.1, "reached": True, "tau_id": 0.5, "tau_ood": 0.0}
    return EvaluatedRun(entry.run, "one", entry.result | {"decision": rule}, table)


def cells(grid) -> dict[str, list[str]]:
    return {name: [cell.text for cell in row] for name, row in grid.rows}


def test_mistakes_are_counted():
    assert confusions(LABELS, PREDICTIONS) == [(0, 1, 2), (2, 1, 2), (1, 0, 1)]
    assert confusions(LABELS, LABELS) == []


def test_accuracy_and_acceptance_by_class_the_worst_first(entry):
    found = cells(class_table(entry, NAMES))
    assert list(found) == ["cat", "dog", "owl"]
    assert found["cat"] == ["3", "33.33", "33.33", "0.00"]
    assert found["owl"] == ["4", "50.00", "50.00", "50.00"]
    assert class_table(entry, NAMES).columns[-1] == "risk of the accepted %"


def test_the_commonest_mistakes(entry):
    assert cells(pair_table(entry, NAMES))["cat"] == ["dog", "2", "66.67"]


def test_a_matrix_only_where_it_can_be_read(entry):
    figure = confusion_figure(entry, NAMES)
    assert {"cat", "dog", "owl", "1", "2"} <= set(drawn.texts(figure.svg))
    assert confusion_figure(entry, [str(number) for number in range(MOST_IN_MATRIX + 1)]) is None


def test_classes_without_an_image_have_no_accuracy(entry):
    found = cells(class_table(entry, (*NAMES, "yak")))
    assert found["yak"] == ["0", "–", "–", "–"]


def test_names_are_those_of_the_data_or_numbers(entry, monkeypatch):
    assert class_names(entry) == tuple("01234567")
    entry.run.path.joinpath("config.yaml").write_text(
        entry.run.path.joinpath("config.yaml").read_text().replace("builtin:digits/train", "nowhere/train")
    )
    assert class_names(entry) == ("0", "1", "2")
