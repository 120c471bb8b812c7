"""Arrays that lie in files: as those in memory, and gone with the last who has them."""

import numpy as np
import pytest

from rtk.runtime import large_arrays
from rtk.runtime.large_arrays import empty_array, take_rows


@pytest.mark.parametrize("rows", [np.arange(3, 20_000, 2), np.arange(20_000) % 3 == 1, slice(5, 9)])
@pytest.mark.parametrize("limit", [1, 2**28])
def test_rows_are_those_of_an_array_in_memory(tmp_path, monkeypatch, limit, rows):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", limit)
    expected = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    values = empty_array(expected.shape, expected.dtype, tmp_path)
    values[:] = expected
    assert isinstance(values, np.memmap) == (limit == 1)
    taken = take_rows(values, rows)
    assert (taken == expected[rows]).all()
    assert taken.flags.writeable


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 1)
    values = empty_array((10, 2), np.int64, tmp_path)
    values[:] = 1
    assert values.sum() == 20
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(large_arrays, "IN_MEMORY", 1)
    with pytest.raises(OSError, match="No space left|too large"):
        empty_array((2**50,), np.int64, tmp_path)
    assert list(tmp_path.iterdir()) == []
