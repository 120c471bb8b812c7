"""Counts of decisions, and whether their shares are those of the test set."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from rtk.deploy.serving.watch import Watch, p_value
from rtk.scores.decision import ACCEPT, DECISIONS, LIKELY_WRONG, UNFAMILIAR

DASHBOARD = Path(__file__).parents[3] / "cluster" / "kubernetes" / "grafana.json"
ORIGIN = {"run": "flowers", "step": 7}
EXPECTED = {ACCEPT: 800, LIKELY_WRONG: 150, UNFAMILIAR: 50}


def note(watch: Watch, **counts: int) -> None:
    decisions = {"accept": ACCEPT, "wrong": LIKELY_WRONG, "strange": UNFAMILIAR, "unread": None}
    for name, count in counts.items():
        for _ in range(count):
            watch.note({"decision": decisions[name]})


def test_what_is_decided_is_counted_in_all_and_of_the_last():
    watch = Watch(ORIGIN, EXPECTED, window=10)
    note(watch, strange=30, unread=3, accept=4, wrong=2)
    status = watch.status()
    assert status["images"] == {ACCEPT: 4, LIKELY_WRONG: 2, UNFAMILIAR: 30, "unreadable": 3}
    assert status["last"] == {"images": 10, ACCEPT: 0.4, LIKELY_WRONG: 0.2, UNFAMILIAR: 0.4}
    assert status["expected"] == {"images": 1000, ACCEPT: 0.8, LIKELY_WRONG: 0.15, UNFAMILIAR: 0.05}
    assert status["p_value"] < 1e-3


def test_nothing_is_said_before_anything_has_come_or_of_what_is_not_known():
    assert Watch(ORIGIN, EXPECTED).status()["p_value"] is None
    assert Watch(ORIGIN, EXPECTED).status()["last"] == {"images": 0}
    unknown = Watch(ORIGIN, None)
    note(unknown, accept=5)
    assert (unknown.status()["expected"], unknown.status()["p_value"]) == (None, None)


def counts(numbers: Iterable[int]) -> dict[str, int]:
    return dict(zip(DECISIONS, map(int, numbers), strict=True))


def exact(seen: list[int], expected: list[int]) -> float:
    """In fractions, over all ways to draw as many images as were seen."""
    both = [here + there for here, there in zip(seen, expected, strict=True)]
    drawn, total = sum(seen), sum(both)

    def statistic(ways: Iterable[int]) -> Fraction:
        differences = (
            (Fraction(n) - Fraction(drawn * of, total), of) for n, of in zip(ways, both, strict=True)
        )
        return sum((difference**2 / of for difference, of in differences if of), Fraction(0))

    as_far = (
        math.prod(map(math.comb, both, ways))
        for ways in product(*(range(of + 1) for of in both))
        if sum(ways) == drawn and statistic(ways) >= statistic(seen)
    )
    return float(Fraction(sum(as_far), math.comb(total, drawn)))


def test_the_p_value_is_exact():
    rng = np.random.default_rng(0)
    for _ in range(60):
        seen, expected = (
            rng.multinomial(rng.integers(1, most), rng.dirichlet([1, 0.5, 1])).tolist() for most in (8, 15)
        )
        assert p_value(counts(seen), counts(expected)) == pytest.approx(exact(seen, expected), rel=1e-11)


def test_one_rare_image_is_no_alarm():
    expected = {ACCEPT: 995, LIKELY_WRONG: 4, UNFAMILIAR: 1}
    assert p_value({UNFAMILIAR: 1}, expected) == pytest.approx(2 / 1001, rel=1e-9)
    assert p_value({ACCEPT: 28, UNFAMILIAR: 2}, expected) > 1e-3  # 4e-10 by the chi-squared distribution


def test_the_p_value_of_many_is_nearly_that_of_the_chi_squared_distribution():
    seen = {ACCEPT: 760, LIKELY_WRONG: 175, UNFAMILIAR: 65}
    table = np.array([[seen[name] for name in DECISIONS], [EXPECTED[name] for name in DECISIONS]], np.float64)
    wanted = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    statistic = ((table - wanted) ** 2 / wanted).sum()
    assert p_value(seen, EXPECTED) == pytest.approx(chi2.sf(statistic, 2), rel=0.05)


def test_the_p_value_of_images_like_the_test_set_is_uniform():
    """One in twenty is below 0.05, give or take three standard errors."""
    rng, shares = np.random.default_rng(0), np.array([0.8, 0.15, 0.05])
    values = []
    for _ in range(400):
        here, there = (counts(rng.multinomial(1000, shares)) for _ in range(2))
        values.append(p_value(here, there))
    assert abs(np.mean(np.array(values) < 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_decision_that_nobody_got_says_nothing():
    assert p_value({ACCEPT: 9}, {ACCEPT: 100, LIKELY_WRONG: 0, UNFAMILIAR: 0}) == 1.0
    assert p_value({ACCEPT: 5, UNFAMILIAR: 5}, {ACCEPT: 90, LIKELY_WRONG: 0, UNFAMILIAR: 10}) < 0.01


def test_prometheus_gets_all_of_it():
    from prometheus_client.parser import text_string_to_metric_families

    watch = Watch(ORIGIN, EXPECTED)
    before = watch.prometheus().decode()
    assert "rtk_served_share{" not in before  # 0 would be a share, far from the expected one
    assert 'rtk_served_images_total{decision="unreadable"} 0.0' in before  # or the first would be no increase
    note(watch, accept=3, strange=1, unread=2)
    watch.note_request(0.03, 200)
    watch.note_request(0.03, 413)
    text = watch.prometheus().decode()
    samples = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert samples["rtk_served_images_total", ACCEPT] == 3
    assert samples["rtk_served_images_total", LIKELY_WRONG] == 0  # there before the first
    assert samples["rtk_served_images_total", "unreadable"] == 2
    assert samples["rtk_served_share", UNFAMILIAR] == 0.25
    assert samples["rtk_served_expected_share", ACCEPT] == 0.8
    assert samples["rtk_served_model", "flowers", "7"] == 1
    assert samples[("rtk_served_seconds_count",)] == 1
    assert samples["rtk_served_refused_total", "413"] == 1


def test_the_dashboard_shows_all_that_is_exported():
    watch = Watch(ORIGIN, EXPECTED)
    note(watch, accept=1)
    watch.note_request(0.03, 413)
    exported = set(
        re.findall(r"^# TYPE (rtk_served_\w+?)(?:_total)? \w+$", watch.prometheus().decode(), re.M)
    )
    exported -= {name for name in exported if name.endswith("_created")}
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    texts.append(dashboard["templating"]["list"][1]["query"]["query"])
    shown = {name for text in texts for name in re.findall(r"rtk_served_\w+", text)}
    assert {re.sub("_(total|bucket)$", "", name) for name in shown} == exported
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
