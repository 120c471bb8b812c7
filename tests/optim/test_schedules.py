import math

import pytest
import torch

from rtk.config import load_config
from rtk.optim.schedules import averaging_phase, learning_rate


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


def test_rats_warmup_grows_by_half_a_cosine_and_the_cosine_follows():
    """RAT's code: the peak times rel + (1 - rel) * (cos(pi + pi * epoch / warmup) + 1) / 2, rel being ~ 0.

    It moves once an epoch, here with every step; and has arrived with the last one of the warm-up.
    """
    config = load_config("wrn28_10_cifar10_rat", ["data.train=x", "data.test=x", "data.validation_ood=x"])
    peak, schedule = config.optimizer.lr, config.schedule
    assert (peak, str(schedule.warmup), schedule.warmup_shape) == (0.2, "5ep", "cosine")
    steps = 5 * 3  # three steps an epoch

    def rate(step: int) -> float:
        return learning_rate(step, 100 * 3, peak, schedule.name, steps, warmup_shape=schedule.warmup_shape)

    for epoch in range(1, 6):  # at the end of each the rate is what RAT's code sets for the next
        published = 1e-8 + (peak - 1e-8) * (math.cos(math.pi + math.pi * epoch / 5) + 1) / 2
        assert rate(3 * epoch - 1) == pytest.approx(published, abs=1e-8)
    assert [rate(step) for step in range(steps)] == pytest.approx(
        [peak * math.sin(math.pi / 2 * (step + 1) / steps) ** 2 for step in range(steps)]
    )
    for step in range(steps, 300):
        falling = (1 + math.cos(math.pi * (step - steps) / (300 - steps))) / 2
        assert rate(step) == pytest.approx(peak * falling)


def test_the_averaging_phase_equals_torch_at_the_beginning_of_every_epoch():
    """SURE's schedules: a cosine over 200 epochs, left after 120 for SWALR, which is stepped from then on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.05)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    swa = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.03)
    optimizer.step()
    for _ in range(120):
        cosine.step()
    before = learning_rate(120, 200, 0.05)
    for epoch in range(120, 140):  # from 0
        rate = averaging_phase(7 * (epoch - 120), before, 0.03, anneal_steps=7 * 10)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        swa.step()
    assert rate == 0.03
