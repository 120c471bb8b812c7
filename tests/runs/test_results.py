"""Rows of data made of runs."""

from __future__ import annotations

import pytest

from rtk.runs.results import mean_and_std


def test_mean_and_std_of_what_all_have():
    metrics = [{"accuracy": 0.90, "aurc": 0.02}, {"accuracy": 0.94, "aurc": 0.04, "auroc_near": 0.7}]
    found = mean_and_std(metrics)
    assert found["mean"] == pytest.approx({"accuracy": 0.92, "aurc": 0.03})
    assert found["std"] == pytest.approx({"accuracy": 0.04 / 2**0.5, "aurc": 0.02 / 2**0.5})
    assert mean_and_std(metrics[:1])["std"] == {}
    assert mean_and_std([]) == {"mean": {}, "std": {}}
