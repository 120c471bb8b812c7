"""Metrics of one score, their means and intervals, and results reduced leaf by leaf."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rtk.evaluate.measure import (
    ScoreColumns,
    calibration,
    measure_score,
    ood_metrics,
    reduce_leaves,
    score_metrics,
)
from rtk.metrics import aurc, bootstrap_interval, ds_aurc, ds_f1, joint, ood_aurc, ood_detection, ood_f1
from rtk.scores import Predictions


def columns(known: int = 200, unseen: int = 100) -> dict[str, ScoreColumns]:
    generator = np.random.default_rng(0)
    correct = generator.random(known) < 0.8
    confidence = generator.random(known) + 0.3 * correct
    found = {"test": ScoreColumns(confidence, 1 + generator.standard_normal(known), correct, "id")}
    for name, group, mean in (("cats", "near", 0.5), ("dogs", "near", 0.0), ("noise", "far", -1.0)):
        scores = mean + generator.standard_normal(unseen)
        found[name] = ScoreColumns(generator.random(unseen), scores, np.zeros(unseen, bool), group)
    return found


def test_values_are_those_of_the_metrics():
    own = columns()
    measured = score_metrics(own, "exact")
    test, cats = own["test"], own["cats"]
    five = (test.confidence, test.score, test.is_correct, cats.confidence, cats.score)
    assert measured["test"]["aurc"] == pytest.approx(aurc(test.score, test.is_correct))
    assert measured["test"]["accuracy"] == test.is_correct.mean()
    assert measured["sets"]["cats"] == {
        **ood_detection(test.score, cats.score),
        "ds_f1": ds_f1(*five),
        "ds_aurc": ds_aurc(*five),
        "ood_f1": ood_f1(test.score, test.is_correct, cats.score),
        "ood_aurc": ood_aurc(test.score, test.is_correct, cats.score),
    }
    near = [measured["sets"][name]["auroc"] for name in ("cats", "dogs")]
    assert measured["means"]["auroc_near"] == pytest.approx(np.mean(near))
    assert measured["means"]["ds_f1_far"] == measured["sets"]["noise"]["ds_f1"]


def test_the_grid_counts_the_images_of_a_set_once_for_all_four_figures(monkeypatch):
    own = columns()
    own = {name: replace(part, confidence=part.confidence / 2) for name, part in own.items()}
    test, cats = own["test"], own["cats"]
    five = (test.confidence, test.score, test.is_correct, cats.confidence, cats.score)
    alone = {name: metric(*five, method="grid") for name, metric in (("ds_f1", ds_f1), ("ds_aurc", ds_aurc))}
    three = (test.score, test.is_correct, cats.score)
    alone |= {"ood_f1": ood_f1(*three, method="grid"), "ood_aurc": ood_aurc(*three, method="grid")}
    counted = []
    count = joint.count_images
    monkeypatch.setattr(joint, "count_images", lambda images: counted.append(images) or count(images))
    assert ood_metrics(test, cats, "grid") == {**ood_detection(test.score, cats.score), **alone}
    assert len(counted) == 1


def test_without_ood_sets_there_are_no_means():
    measured = score_metrics({"test": columns()["test"]}, "exact")
    assert (measured["sets"], measured["means"]) == ({}, {})


def test_intervals_hold_the_value_and_have_the_width_of_theory():
    own = columns(known=400)
    metrics, intervals = measure_score(own, "exact", resamples=200)
    low, high = intervals["test"]["accuracy"]
    share = metrics["test"]["accuracy"]
    width = 2 * 1.96 * np.sqrt(share * (1 - share) / 400)  # normal approximation of the binomial
    assert high - low == pytest.approx(width, rel=0.25)
    for group in ("cats", "noise"):
        for key, value in metrics["sets"][group].items():
            ends = intervals["sets"][group][key]
            assert ends[0] <= ends[1]
            if key in ("auroc", "aupr_in", "aupr_out"):  # the others are biased in resamples
                assert ends[0] < value < ends[1]
    five = (own["test"].confidence, own["test"].score, own["test"].is_correct)
    alone = bootstrap_interval(
        lambda conf, score, right, *_: aurc(score, right),
        *(five, *((part.confidence, part.score) for name, part in own.items() if name != "test")),
        resamples=200,
    )
    assert intervals["test"]["aurc"] == pytest.approx([alone.low, alone.high])
    assert intervals["means"]["auroc_near"][0] < metrics["means"]["auroc_near"]


def test_no_resamples_no_intervals():
    assert measure_score(columns(), "exact", resamples=0)[1] == {}


def test_leaves_are_reduced_and_those_that_are_not_shared_left_out():
    results = [{"a": {"b": 1.0, "c": 5.0}, "d": 2.0}, {"a": {"b": 3.0}, "d": 4.0}]
    assert reduce_leaves(results, np.mean) == {"a": {"b": 2.0}, "d": 3.0}


def test_calibration_of_a_model_that_says_what_it_knows():
    generator = np.random.default_rng(1)
    logits = generator.standard_normal((20_000, 4)).astype(np.float32) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (generator.random((20_000, 1)) > probabilities.cumsum(1)).sum(1).clip(0, 3)
    modest, too_sure = (
        Predictions(torch.from_numpy(scaled), torch.zeros(20_000, 1), torch.from_numpy(labels))
        for scaled in (logits, logits * 3)
    )
    found = calibration(logits, labels, modest)
    assert found["ece"] < 0.015
    assert sum(found["reliability"]["count"]) == 20_000
    assert found["temperature"] == pytest.approx(1, abs=0.05)
    found = calibration(logits * 3, labels, too_sure)
    assert found["ece"] > 0.1
    assert found["temperature"] == pytest.approx(3, abs=0.1)
    assert found["ece_at_temperature"] < 0.015
