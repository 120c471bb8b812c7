"""What trains and what makes views beside it have no more threads together than the worker has."""

from __future__ import annotations

import pytest
import torch

from rtk.runtime.threads import leave_threads_to_views


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("whole", "training", "views"), [(1, 1, 1), (2, 2, 1), (15, 15, 1), (16, 15, 2), (64, 57, 8)]
)
def test_pools_fit_on_the_cpus(threads, whole, training, views):
    """Each counts the thread that it belongs to, of which one is there anyway."""
    threads(whole)
    assert leave_threads_to_views(torch.device("cpu")) == views
    assert torch.get_num_threads() == training
    assert training + views - 1 == whole


def test_beside_a_gpu_views_have_all(threads):
    threads(4)
    assert leave_threads_to_views(torch.device("cuda")) == 4
    assert torch.get_num_threads() == 4
