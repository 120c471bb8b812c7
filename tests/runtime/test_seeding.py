"""Seeds of torch's generators."""

import numpy as np
import torch

from rtk.runtime.seeding import seed_torch


def test_draws_are_those_of_torch_seeded_by_the_same_number():
    torch.manual_seed(int(np.random.SeedSequence([3, 1, 7]).generate_state(1, np.uint64)[0]))
    expected = torch.rand(5)
    torch.rand(3)
    seed_torch(3, 1, 7)
    assert torch.equal(torch.rand(5), expected)


def test_a_seed_a_step_leaves_nothing_behind():
    seed_torch(0)
    before = len(torch.cuda._queued_calls)
    for step in range(3):
        seed_torch(0, step)
    assert len(torch.cuda._queued_calls) == before  # as torch.manual_seed leaves a stack trace each time
