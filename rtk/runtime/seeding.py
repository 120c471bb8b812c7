"""Seeds for torch's generators; augmentation draws do not come from here (see `rtk.data.views.draws`)."""

from __future__ import annotations

import numpy as np
import torch


def seed_torch(*key: int) -> None:
    """Seed torch's generators as a function of a key such as (seed, step, rank).

    Seeding anew at each step makes dropout and drop path independent of what ran before, so that a
    resumed run needs no generator state, and both passes of SAM drop the same units.
    """
    state = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    # Not `torch.manual_seed`, which notes a stack trace for every kind of accelerator that is not there.
    torch.default_generator.manual_seed(int(state))
    if torch.cuda.is_initialized():  # before that nothing is drawn there
        torch.cuda.manual_seed_all(int(state))
