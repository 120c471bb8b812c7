"""What of a state goes into checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rtk.train.state import TrainState, optimizer_counters, per_weight_tensors
from rtk.train.zero_shards import ReplicatedShards


@pytest.mark.parametrize("reached", [0, 1])
def test_moments_are_saved_where_the_loss_does_not_reach_every_parameter(reached):
    """The optimiser keeps nothing of a parameter without gradients; the others' is saved all the same."""
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net[reached](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    engine = SimpleNamespace(optimizer=optimizer, module=net)
    state = TrainState(engine, ReplicatedShards(engine), {}, [], [])
    kinds = per_weight_tensors(state)
    assert set(kinds) == {"weight", "exp_avg", "exp_avg_sq"}
    for kind in ("exp_avg", "exp_avg_sq"):
        for parameter, kept in zip(net.parameters(), kinds[kind], strict=True):
            wanted = optimizer.state[parameter].get(kind, torch.zeros_like(parameter))
            assert torch.equal(kept, wanted)
    assert optimizer_counters(state) == {"step": 1.0}
