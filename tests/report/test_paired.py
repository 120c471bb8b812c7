"""Two single runs against each other over the images that both were tested on."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.metrics import bootstrap_difference
from rtk.report import paired
from rtk.report.comparison import compare
from rtk.report.evaluated import EvaluatedRun
from rtk.report.paired import paired_difference


def changed(entry: EvaluatedRun, column: str, values: np.ndarray) -> EvaluatedRun:
    place = entry.table.column_names.index(column)
    table = entry.table.set_column(place, column, [values])
    return EvaluatedRun(entry.run, "other", entry.result, table, 1)


@pytest.fixture
def few_resamples(monkeypatch):
    """So few resamples that the joint metrics take no time."""
    monkeypatch.setattr(paired, "FEWEST", 20)
    monkeypatch.setattr(paired, "MOST", 20)


@pytest.fixture
def entry(make_run, read) -> EvaluatedRun:
    return read(make_run("one"))[0]


def test_it_is_the_paired_bootstrap_of_the_images(entry):
    right = entry.column("id", "is_correct")
    flags = entry.table["is_correct"].to_numpy(zero_copy_only=False).copy()
    flags[np.flatnonzero(~right)[:6]] = True
    better = changed(entry, "is_correct", flags)
    found, images = paired_difference(entry, better, "accuracy")
    wanted = bootstrap_difference(np.mean, [(right,)], [(better.column("id", "is_correct"),)])
    assert images == len(right)
    assert (found.estimate, found.low, found.high) == (wanted.estimate, wanted.low, wanted.high)
    assert found.estimate == pytest.approx(6 / len(right))
    # Far narrower than what each accuracy alone could have been: the images are shared.
    assert 0 < found.low < found.high < 0.09


@pytest.mark.parametrize("key", ["aurc", "auroc_near", "fpr95_far", "ds_aurc_near", "ds_f1_far"])
def test_the_estimate_is_the_difference_of_the_tables(make_run, read, few_resamples, key):
    sets = {"cats": ("near", 30), "dogs": ("near", 20), "noise": ("far", 20)}
    entry, other = read(make_run("one", sets=sets), make_run("two", sets=sets, skill=0.05))
    found, images = paired_difference(entry, other, key)
    values = [one.result["summary"][key] for one in (entry, other)]
    assert found.estimate == pytest.approx(values[1] - values[0], abs=1e-12)
    assert images == {"aurc": 150, "near": 200, "far": 170}[key.rpartition("_")[2]]
    assert found.low <= found.estimate <= found.high


def test_only_the_same_images_are_compared(entry, make_run, read):
    other_labels = changed(entry, "label", entry.table["label"].to_numpy()[::-1].copy())
    assert paired_difference(entry, other_labels, "accuracy") is None
    (fewer,) = read(make_run("two", sets={"cats": ("near", 60), "noise": ("far", 40)}))
    assert paired_difference(entry, fewer, "accuracy") is not None  # the test set is the same
    assert paired_difference(entry, fewer, "auroc_near") is None
    assert paired_difference(entry, fewer, "auroc_far") is not None
    assert paired_difference(entry, entry, "val/accuracy") is None


def test_compare_gives_single_runs_an_interval(make_run, few_resamples):
    runs = [make_run("one"), make_run("two", skill=0.0, overrides=("optimizer.lr=0.1",))]
    found = {one.metric: one for one in compare([str(run.path) for run in runs]).differences}
    assert found["aurc"].is_significant
    assert found["aurc"].over == "150 images"
    assert not found["accuracy"].is_significant
    assert found["accuracy"].difference == found["accuracy"].low == 0  # right on the same images
    assert {"auroc_near", "ds_aurc_near", "ds_aurc_far"} <= found.keys()
