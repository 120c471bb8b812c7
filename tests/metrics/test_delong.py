"""The test of DeLong against pairs counted one by one, resampling, and worlds without a difference."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.metrics import auroc, bootstrap_difference
from rtk.metrics.delong import auroc_difference


def drawn(seed, count=120, ood=(90, 60)):
    """Two scores that have much in common, of ID images and of two OOD sets, with ties."""
    draw = np.random.default_rng(seed)

    def both(size, centre, gap):
        common = draw.normal(centre, 1, size)
        first = np.round(common + draw.normal(0, 0.7, size), 1)
        return first, np.round(common + gap + draw.normal(0, 0.4, size), 1)

    return both(count, 1.0, 0.0), [both(size, 0.0, -0.1) for size in ood]


def mean_auroc(known, others):
    flags = [np.arange(len(known) + len(one)) < len(known) for one in others]
    return np.mean([auroc(np.append(known, one), flag) for one, flag in zip(others, flags, strict=True)])


def test_the_estimate_is_the_difference_of_mean_aurocs():
    (first, second), sets = drawn(0)
    found = auroc_difference(first, second, sets)
    wanted = mean_auroc(second, [b for _, b in sets]) - mean_auroc(first, [a for a, _ in sets])
    assert found.estimate == pytest.approx(wanted, abs=1e-12)
    assert found.low < found.estimate < found.high


def test_the_interval_is_that_of_resampled_images():
    (first, second), sets = drawn(1)
    found = auroc_difference(first, second, sets)

    def metric(known, *others):
        return mean_auroc(known, others)

    strata = [[(first,), *((a,) for a, _ in sets)], [(second,), *((b,) for _, b in sets)]]
    resampled = bootstrap_difference(metric, *strata, resamples=400)
    assert found.high - found.low == pytest.approx(resampled.high - resampled.low, rel=0.15)
    assert found.low == pytest.approx(resampled.low, abs=0.02)


def test_it_finds_a_difference_where_there_is_none_one_time_in_twenty():
    found = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        common = draw.normal(0, 1, 80), draw.normal(-1, 1, 60)
        known = [common[0] + draw.normal(0, 0.5, 80) for _ in range(2)]
        others = [common[1] + draw.normal(0, 0.5, 60) for _ in range(2)]
        interval = auroc_difference(*known, [tuple(others)])
        found += not interval.low <= 0 <= interval.high
    assert 8 <= found <= 35  # 20 are expected; 99.9 % of such experiments lie within


def test_one_score_is_no_better_than_itself():
    (first, _), sets = drawn(2)
    found = auroc_difference(first, first, [(a, a) for a, _ in sets])
    assert (found.estimate, found.low, found.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("first", "second", "sets"),
    [([1, 2], [1, 2], []), ([1, 2], [1], [([0], [0])]), ([1], [1], [([], [])]), ([1], [1], [([0], [0, 1])])],
)
def test_scores_of_other_images_are_refused(first, second, sets):
    with pytest.raises(ValueError, match="sets: got"):
        auroc_difference(first, second, sets)
