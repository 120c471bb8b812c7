import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from rtk.data.views.draws import beta, dirichlet, philox, randint, uniforms

# Random123 1.14, tests/kat_vectors: "philox4x32 10 <counter> <key> <result>".
KNOWN_ANSWERS = [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
]


def test_philox_known_answers():
    words = np.array([[int(word, 16) for word in line.split()] for line in KNOWN_ANSWERS], np.uint64).T
    np.testing.assert_array_equal(philox(words[:4], words[4:6]), words[6:])


def test_a_row_does_not_depend_on_the_batch():
    ids = np.array([5, 2**40 + 1, 0, 17, 2**31])
    together = uniforms(1, 2, ids, "crop", 7)
    alone = np.concatenate([uniforms(1, 2, ids[i : i + 1], "crop", 7) for i in range(len(ids))])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(uniforms(1, 2, ids[::-1], "crop", 7), together[::-1])


def test_more_draws_start_with_the_fewer():
    ids = np.arange(9)
    np.testing.assert_array_equal(uniforms(0, 0, ids, "crop", 11)[:, :3], uniforms(0, 0, ids, "crop", 3))


@pytest.mark.parametrize(
    "other",
    [
        (1, 0, 0, "crop"),
        (2**32, 0, 0, "crop"),
        (-1, 0, 0, "crop"),
        (0, 1, 0, "crop"),
        (0, 2**32, 0, "crop"),
        (0, 0, 1, "crop"),
        (0, 0, 2**32, "crop"),
        (0, 0, 0, "pixmix"),
    ],
)
def test_every_coordinate_matters(other):
    seed, epoch, sample_id, view = other
    changed = uniforms(seed, epoch, np.array([sample_id]), view, 8)
    assert not np.intersect1d(changed, uniforms(0, 0, np.array([0]), "crop", 8)).size


def test_another_process_draws_the_same():
    code = "from rtk.data.views.draws import uniforms; print(uniforms(3, 4, [5], 'crop', 2).tolist())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == str(uniforms(3, 4, [5], "crop", 2).tolist())


def test_uniforms_are_uniform_and_open():
    u = uniforms(0, 0, np.arange(20_000), "crop", 5)
    assert u.dtype == np.float64
    assert u.min() > 0
    assert u.max() < 1
    assert stats.kstest(u.ravel(), "uniform").pvalue > 1e-3
    np.testing.assert_allclose(np.corrcoef(u.T), np.eye(5), atol=0.03)


def test_no_draws():
    assert uniforms(0, 0, np.arange(3), "crop", 0).shape == (3, 0)
    assert uniforms(0, 0, [], "crop", 4).shape == (0, 4)


@pytest.mark.parametrize(("a", "b"), [(3, 1), (1, 3), (1, 1), (0.3, 0.3), (10, 10)])
def test_beta_is_the_quantile_function(a, b):
    u = np.linspace(1e-6, 1 - 1e-6, 101)
    np.testing.assert_allclose(beta(u, a, b), stats.beta.ppf(u, a, b), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("alpha", [1, 0.5])
def test_dirichlet_has_unit_mass_and_the_right_margins(alpha):
    weights = dirichlet(uniforms(0, 0, np.arange(4000), "weights", 3), alpha)
    np.testing.assert_allclose(weights.sum(-1), 1)
    assert stats.kstest(weights[:, 0], stats.beta(alpha, 2 * alpha).cdf).pvalue > 1e-3


def test_randint_covers_its_range_evenly():
    assert randint([0.0, 0.249, 0.25, 1 - 2.0**-33], 4).tolist() == [0, 0, 1, 3]


@pytest.mark.parametrize("alpha", [1e-300, 1e-4, 1e-3, 0.02, 1e4])
def test_dirichlet_of_extreme_alphas(alpha):
    """Below an alpha of about 0.01 every gamma variable of a row may underflow; one weight takes all then."""
    weights = dirichlet(uniforms(0, 0, np.arange(2000), "weights", 3), alpha)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, atol=0.04)
    spread = (1 / 3) * (2 / 3) / (3 * alpha + 1)  # of a symmetric Dirichlet distribution
    np.testing.assert_allclose(weights.var(axis=0), spread, rtol=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniforms(0, 0, np.zeros((2, 2), int), "crop", 1), "sample_ids"),
        (lambda: uniforms(0, 0, [0.5], "crop", 1), "sample_ids"),
        (lambda: uniforms(0, -1, [0], "crop", 1), "epoch"),
        (lambda: beta(0.5, 0, 1), "a, b"),
        (lambda: beta(0.5, float("nan"), 1), "a, b"),
        (lambda: beta(0.5, 1, float("inf")), "a, b"),
        (lambda: dirichlet([0.5], float("nan")), "alpha"),
        (lambda: dirichlet([0.5], 0), "alpha"),
        (lambda: randint(0.5, 0), "n: got 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
