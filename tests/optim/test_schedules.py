import pytest
import torch

from rtk.optim.schedules import learning_rate


def test_cosine_equals_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert learning_rate(step, 20, 0.05) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_warmup_constant_and_final_fraction():
    assert [learning_rate(s, 10, 1.0, "constant", 4) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate(10, 10, 1.0, final=0.1) == pytest.approx(0.1)
    assert learning_rate(4, 10, 1.0, warmup_steps=4) == 1.0
