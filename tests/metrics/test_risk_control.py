"""P-values against sums by hand and simulation, procedures against small cases, bounds against roots."""

from __future__ import annotations

from math import comb, e, exp, log

import numpy as np
import pytest

from rtk.metrics.risk_control import (
    binomial_p_value,
    fewest_accepted,
    fixed_sequence,
    hoeffding_bentkus_p_value,
    holm,
    images_needed,
    relative_entropy,
    upper_bound,
)


def binomial_sum(hits: int, count: int, share: float) -> float:
    return sum(comb(count, i) * share**i * (1 - share) ** (count - i) for i in range(hits + 1))


def test_binomial_p_value_is_the_sum_by_hand():
    found = binomial_p_value([0, 3, 0], [149, 40, 0], 0.02)
    assert found == pytest.approx([0.98**149, binomial_sum(3, 40, 0.02), 1.0])


def test_hoeffding_bentkus_is_the_smaller_of_both_bounds():
    # Of 200 losses that sum up to 4.5 at a wanted 0.05, by hand; Bentkus is the smaller for few images.
    entropy = 0.0225 * log(0.0225 / 0.05) + 0.9775 * log(0.9775 / 0.95)
    bounds = [exp(-200 * entropy), e * binomial_sum(5, 200, 0.05)]
    assert hoeffding_bentkus_p_value([4.5], [200], 0.05) == pytest.approx([min(bounds)])
    assert hoeffding_bentkus_p_value([0.0, 3.0, 30.0], [0, 3, 40], 0.1) == pytest.approx([1.0, 1.0, 1.0])
    # With losses of 0 and 1 the exact value is never larger.
    losses = np.arange(40)
    exact, bound = (p(losses, np.full(40, 100), 0.2) for p in (binomial_p_value, hoeffding_bentkus_p_value))
    assert (exact <= bound + 1e-15).all()


def test_p_values_are_those_of_mapie():
    """Recorded from MAPIE 1.6.0, `compute_hoeffding_bentkus_p_value` with and without `binary`, at 0.1."""
    losses, images = [1, 4, 30, 60], [100, 250, 400, 1000]
    exact = [3.21688053e-04, 1.02386107e-07, 5.23912466e-02, 4.37881990e-06]
    bound = [7.98222875e-04, 2.78314295e-07, 1.42414174e-01, 1.19028666e-05]
    np.testing.assert_allclose(binomial_p_value(losses, images, 0.1), exact, rtol=1e-8)
    np.testing.assert_allclose(hoeffding_bentkus_p_value(losses, images, 0.1), bound, rtol=1e-8)


@pytest.mark.parametrize("p_value", [binomial_p_value, hoeffding_bentkus_p_value])
def test_p_values_are_small_no_more_often_than_they_may(p_value):
    generator = np.random.default_rng(0)
    # As of a rule that accepts each of 400 images with probability 0.3: the number accepted is random too.
    accepted = generator.binomial(400, 0.3, 20_000)
    wrong = generator.binomial(accepted, 0.1)
    values = p_value(wrong, accepted, 0.1)
    for level in (0.01, 0.05, 0.2):
        assert (values <= level).mean() <= level + 3 * np.sqrt(level / 20_000)


def test_relative_entropy_at_its_ends():
    found = relative_entropy([0.0, 1.0, 0.2, 0.5], 0.2)
    assert found == pytest.approx([-log(0.8), -log(0.2), 0.0, 0.5 * log(2.5) + 0.5 * log(0.5 / 0.8)])


def test_a_fixed_sequence_ends_at_the_first_that_is_not_rejected():
    assert fixed_sequence([0.01, 0.05, 0.06, 0.0], 0.05) == 2
    assert fixed_sequence([0.2, 0.0], 0.05) == 0
    assert fixed_sequence([0.0, 0.0], 0.05) == 2
    assert fixed_sequence([np.nan, 0.0], 0.05) == 0
    assert fixed_sequence([], 0.05) == 0


def test_holm_by_hand():
    # 0.01 <= 0.05 / 4, 0.015 <= 0.05 / 3, 0.03 > 0.05 / 2: the last two stay.
    assert holm([0.03, 0.01, 0.04, 0.015], 0.05).tolist() == [False, True, False, True]
    assert holm([0.2, 0.3], 0.05).tolist() == [False, False]
    assert holm([0.05], 0.05).tolist() == [True]


def test_upper_bound_is_where_so_few_hits_become_unlikely():
    bound = upper_bound(7, 90, 0.05)
    assert binomial_sum(7, 90, bound) == pytest.approx(0.05)
    assert upper_bound(0, 149, 0.05) == pytest.approx(1 - 0.05 ** (1 / 149))
    assert upper_bound(5, 5, 0.05) == upper_bound(0, 0, 0.05) == 1.0


def test_images_that_it_takes():
    assert fewest_accepted(0.02, 0.05) == 149
    assert binomial_p_value(0, 149, 0.02) <= 0.05 < binomial_p_value(0, 148, 0.02)
    # A tenth of 1,000 images accepted, one of 100 wrong: not enough yet; the estimate would be.
    assert binomial_p_value(1, 100, 0.03) > 0.05
    needed = images_needed([1], [100], 1000, 0.03, 0.05)
    assert needed is not None
    accepted = needed // 10
    assert binomial_p_value(accepted * 1.5 // 101, accepted, 0.03) <= 0.05
    assert 1000 < needed < 7000
    assert images_needed([30, 60], [100, 150], 200, 0.1, 0.05) is None
    assert images_needed([], [], 0, 0.1, 0.05) is None
