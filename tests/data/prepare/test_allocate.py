import numpy as np
import pytest

from rtk.data.prepare.allocate import allocate, class_counts, targets

FRACTIONS = np.array([0.7, 0.15, 0.15])


def alone(labels):
    return np.arange(len(labels))


def counts_of(labels, parts):
    return class_counts(labels, parts, labels.max() + 1, 3)


def test_rounding_evens_out_over_classes():
    rounded = targets(np.full(6, 10), FRACTIONS)
    assert rounded.sum(1).tolist() == [10] * 6
    assert rounded.sum(0).tolist() == [42, 9, 9]
    assert sorted(map(tuple, rounded)) == [(7, 1, 2)] * 3 + [(7, 2, 1)] * 3


def test_small_classes_have_an_image_in_each_part():
    assert targets(np.array([3, 4, 0]), FRACTIONS).tolist() == [[1, 1, 1], [2, 1, 1], [0, 0, 0]]
    assert targets(np.array([2]), np.array([0.95, 0, 0.05])).tolist() == [[1, 0, 1]]


def test_single_images_meet_the_targets_exactly():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 40, 7]))
    parts = allocate(labels, alone(labels), FRACTIONS, 0)
    assert counts_of(labels, parts).tolist() == [[140, 30, 30], [28, 6, 6], [5, 1, 1]]


def test_the_seed_alone_decides():
    labels = np.repeat([0, 1], 50)
    first, again, other = (allocate(labels, alone(labels), FRACTIONS, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole_and_shares_are_near(seed):
    generator = np.random.default_rng(seed)
    labels, groups = generator.integers(0, 4, 2000), generator.integers(0, 60, 2000)
    parts = allocate(labels, groups, FRACTIONS, seed)
    for group in range(60):
        assert len(np.unique(parts[groups == group])) == 1
    assert np.abs(np.bincount(parts) / 2000 - FRACTIONS).max() < 0.02


def test_single_images_make_up_for_groups():
    labels = np.repeat([0, 1], 100)
    groups = alone(labels)
    groups[:60] = 0  # one group of 60 of the 100 images of a class
    parts = allocate(labels, groups, FRACTIONS, 0)
    assert set(parts[:60]) == {0}
    assert counts_of(labels, parts).tolist() == [[70, 15, 15], [70, 15, 15]]


def test_a_part_of_share_zero_gets_nothing():
    labels = np.repeat([0, 1], 10)
    groups = np.repeat(np.arange(10), 2)
    parts = allocate(labels, groups, np.array([0.8, 0.0, 0.2]), 0)
    assert np.bincount(parts, minlength=3).tolist() == [16, 0, 4]
