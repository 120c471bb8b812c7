import numpy as np
import pytest

from rtk.data.order import epoch_order, holdout_split, rank_batch, steps_per_epoch


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_image_once_an_epoch_over_all_ranks(ranks):
    order = epoch_order(0, 3, 96)
    seen = [rank_batch(order, step, 8, rank, ranks) for step in range(12) for rank in range(ranks)]
    assert sorted(np.concatenate(seen)) == list(range(96))


def test_global_batches_do_not_depend_on_the_number_of_ranks():
    order = epoch_order(0, 0, 64)
    for step in range(4):
        parts = [rank_batch(order, step, 16, rank, 4) for rank in range(4)]
        assert (np.concatenate(parts) == rank_batch(order, step, 16, 0, 1)).all()


def test_order_depends_on_seed_and_epoch_alone():
    assert (epoch_order(1, 2, 50) == epoch_order(1, 2, 50)).all()
    assert not (epoch_order(1, 2, 50) == epoch_order(1, 3, 50)).all()
    assert not (epoch_order(1, 2, 50) == epoch_order(2, 2, 50)).all()


def test_remainder_is_dropped_or_padded_from_the_start():
    assert steps_per_epoch(10, 4, "drop") == 2
    assert steps_per_epoch(10, 4, "pad") == 3
    order = epoch_order(0, 0, 10)
    assert (rank_batch(order, 2, 4, 0, 1) == np.concatenate([order[8:], order[:2]])).all()


def test_too_few_rows_is_refused():
    with pytest.raises(ValueError, match=r"train.batch_size: got 64, wanted at most the 10"):
        steps_per_epoch(10, 64)


def test_large_seeds_hold_out_other_rows():
    """2^53 and 2^53 + 1 are one float64; smaller seeds hold out what they always have."""
    splits = [holdout_split(seed, 100, 0.1)[1].tolist() for seed in (2**53, 2**53 + 1, 2**63 - 2, 2**63 - 1)]
    assert len({tuple(split) for split in splits}) == 4
    assert holdout_split(7, 100, 0.05)[1].tolist() == [9, 27, 39, 77, 84]


def test_holdout_is_a_split():
    kept, held = holdout_split(0, 100, 0.1)
    assert len(held) == 10
    assert sorted([*kept, *held]) == list(range(100))
    assert len(holdout_split(0, 5, 0.0)[1]) == 0


def test_micro_batches_do_not_depend_on_the_number_of_ranks():
    order = epoch_order(3, 0, 64)
    whole = rank_batch(order, 1, 24, 0, 1)
    for ranks in (2, 4):
        shares = [np.split(rank_batch(order, 1, 24, rank, ranks, 3), 3) for rank in range(ranks)]
        together = [np.concatenate(part) for part in zip(*shares, strict=True)]
        assert (np.concatenate(together) == whole).all()
