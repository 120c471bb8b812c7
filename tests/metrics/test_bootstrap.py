"""Intervals against theory, and against SciPy's bootstrap."""

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

from rtk.metrics import (
    accuracy,
    aurc,
    auroc,
    bootstrap_difference,
    bootstrap_interval,
    ds_aurc,
    nll,
    ood_detection,
    proportion_interval,
)


def flags(n, share, seed=0):
    return np.random.default_rng(seed).permutation(n) < share * n


def test_accuracy_has_the_binomial_interval():
    correct = flags(1000, 0.8)
    interval = bootstrap_interval(accuracy, (correct,), resamples=4000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 1000)
    assert interval.estimate == pytest.approx(0.8)
    assert interval.low == pytest.approx(0.8 - half, abs=0.1 * half)
    assert interval.high == pytest.approx(0.8 + half, abs=0.1 * half)


def test_agrees_with_scipy_on_a_ranking_metric():
    rng = np.random.default_rng(1)
    confidence = rng.random(300)
    correct = rng.random(300) < confidence
    ours = bootstrap_interval(aurc, (confidence, correct), resamples=2000, level=0.9)
    theirs = stats.bootstrap(
        (confidence, correct),
        aurc,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        confidence_level=0.9,
        method="percentile",
        rng=2,
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.1 * width)


def test_strata_keep_their_sizes_and_rows_stay_together():
    seen = []

    def metric(first, twice, second):
        np.testing.assert_array_equal(twice, 2 * first)
        seen.append((len(first), len(second), set(first.tolist()) <= set(range(7))))
        return 0.0

    bootstrap_interval(metric, (np.arange(7), 2 * np.arange(7)), (np.arange(10, 13),), resamples=20)
    assert set(seen) == {(7, 3, True)}


def test_seed_decides_and_blocks_do_not_matter(monkeypatch):
    correct = flags(50, 0.7)
    first = bootstrap_interval(accuracy, (correct,), resamples=101, seed=3)
    assert bootstrap_interval(accuracy, (correct,), resamples=101, seed=4) != first
    monkeypatch.setattr("rtk.metrics.bootstrap._BLOCK_DRAWS", 170)
    assert bootstrap_interval(accuracy, (correct,), resamples=101, seed=3) == first


def test_joint_and_ood_metrics_on_two_strata():
    rng = np.random.default_rng(0)
    known = rng.random(80), rng.normal(2, 1, 80), rng.random(80) < 0.8
    unseen = rng.random(60), rng.normal(0, 1, 60)
    joint = bootstrap_interval(ds_aurc, known, unseen, resamples=100)
    assert joint.low < joint.estimate < joint.high
    assert joint.estimate == ds_aurc(*known, *unseen)
    fpr = bootstrap_interval(
        lambda i, o: ood_detection(i, o)["fpr95"], (known[1],), (unseen[1],), resamples=100
    )
    assert 0 <= fpr.low <= fpr.estimate <= fpr.high <= 1


def test_probabilities_are_drawn_by_row():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 40)
    interval = bootstrap_interval(nll, (probabilities, rng.integers(0, 3, 40)), resamples=50)
    assert interval.low < interval.estimate < interval.high


def test_paired_difference_of_equal_groups_is_zero():
    correct, confidence = flags(100, 0.7), np.linspace(0, 1, 100)
    same = bootstrap_difference(aurc, [(confidence, correct)], [(confidence, correct)], resamples=50)
    assert (same.low, same.estimate, same.high) == (0, 0, 0)


def test_pairing_takes_out_what_the_groups_share():
    first = flags(2000, 0.7)
    second = first.copy()
    second[np.flatnonzero(~first)[:40]] = True  # 40 images more are right
    interval = bootstrap_difference(accuracy, [(first,)], [(second,)], resamples=2000)
    half = 1.96 * np.sqrt(0.02 * 0.98 / 2000)  # of a difference that 2 % of the images make
    assert interval.estimate == pytest.approx(0.02)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)
    apart = bootstrap_interval(accuracy, (first,), resamples=500)
    assert interval.high - interval.low < 0.5 * (apart.high - apart.low)


def test_difference_of_two_strata_and_of_runs():
    rng = np.random.default_rng(0)
    known, unseen = rng.normal(2, 1, (200, 3)), rng.normal(0, 1, (150, 3))

    def mean_auroc(known, unseen):
        is_ood = np.arange(len(known) + len(unseen)) >= len(known)
        return np.mean([auroc(-np.append(a, b), is_ood) for a, b in zip(known.T, unseen.T, strict=True)])

    better = bootstrap_difference(mean_auroc, [(known,), (unseen,)], [(known + 1,), (unseen,)], resamples=200)
    assert better.low > 0
    by_run = bootstrap_difference(np.mean, [([0.1, 0.2, 0.3],)], [([0.2, 0.3, 0.4],)], resamples=20)
    assert by_run.low == pytest.approx(by_run.high) == pytest.approx(0.1)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="strata: got none"):
        bootstrap_interval(accuracy)
    with pytest.raises(ValueError, match=r"strata: got arrays of \[2, 1\] rows"):
        bootstrap_interval(aurc, ([0.1, 0.2], [True]))
    with pytest.raises(ValueError, match="strata: got arrays of"):
        bootstrap_interval(accuracy, ([],))
    with pytest.raises(ValueError, match="level: got 95"):
        bootstrap_interval(accuracy, ([True, False],), level=95)
    with pytest.raises(ValueError, match="resamples: got 0"):
        bootstrap_interval(accuracy, ([True, False],), resamples=0)
    with pytest.raises(ValueError, match=r"second: got strata of .*\[\(1, 3\)\], wanted \[\(1, 2\)\]"):
        bootstrap_difference(accuracy, [([True, False],)], [([True, False, True],)])
    with pytest.raises(ValueError, match="a resample of them does not: is_positive: got only"):
        bootstrap_interval(auroc, ([1.0, 0.0], [True, False]), resamples=50)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (5, 10), (10, 10), (1, 1), (37, 1234)])
def test_interval_of_a_share_is_scipys(hits, count):
    wanted = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(proportion_interval(hits, count), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_a_share_of_what_is_not_there_is_refused(hits, count):
    with pytest.raises(ValueError, match="hits: got"):
        proportion_interval(hits, count)
