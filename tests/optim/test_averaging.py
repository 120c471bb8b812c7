from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from rtk.optim import WeightAverage, ema_decay, swa_rate
from rtk.optim.averaging import reestimate_batchnorm
from rtk.optim.shards import LocalShards


def _network() -> nn.Module:
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
            self.bn = nn.BatchNorm2d(5)
            self.fc = nn.Linear(5, 4)

        def forward(self, x):
            return self.fc(self.bn(self.conv(x)).relu().mean((2, 3)))

    return Net().double()


def _load(net, data, prefix):
    state = {key: torch.from_numpy(data[f"{prefix}__{key.replace('.', '_')}"]) for key in net.state_dict()}
    net.load_state_dict(state)


@pytest.mark.parametrize("start", [0, 3000])
def test_average_equals_recorded_one(golden, start):
    data = golden("ema")
    net = _network()
    _load(net, data, "model_step0")
    shards = LocalShards(torch.optim.SGD(net.parameters(), lr=0.1))
    average = WeightAverage(shards, net)
    average.updates = start
    for step in range(1, 6):
        _load(net, data, f"model_step{step}")
        average.update()
        with average.applied():
            for key, value in net.state_dict().items():
                if value.is_floating_point():
                    recorded = data[f"from{start}__ema_step{step}__{key.replace('.', '_')}"]
                    np.testing.assert_allclose(value.numpy(), recorded, rtol=0, atol=1e-12)


def test_decay_equals_recorded_one(golden):
    for start in (0, 3000):
        recorded = np.ravel(golden("ema")[f"from{start}__decay_used"])
        ours = [ema_decay(start + i + 1) for i in range(len(recorded))]
        np.testing.assert_allclose(ours, recorded, rtol=0, atol=1e-15)


def test_applied_gives_the_weights_back():
    net = nn.Linear(3, 2)
    average = WeightAverage(LocalShards(torch.optim.SGD(net.parameters(), lr=0.1)), net)
    before = net.weight.detach().clone()
    net.weight.data.add_(1.0)
    with average.applied():
        assert torch.equal(net.weight, before)
    assert torch.equal(net.weight, before + 1.0)


def test_reestimated_statistics_equal_recorded_ones(golden):
    data = golden("ema")
    net = _network()
    _load(net, data, "rebn__before")
    net.eval()
    reestimate_batchnorm(net, [torch.from_numpy(data[f"rebn__batch{i}"]) for i in range(4)])
    for key, value in net.state_dict().items():
        recorded = data[f"rebn__after__{key.replace('.', '_')}"]
        np.testing.assert_allclose(value.numpy(), recorded, rtol=0, atol=1e-10)
    assert not any(module.training for module in net.modules())
    assert net.bn.momentum == pytest.approx(0.1)


@pytest.mark.parametrize("batches", [[], [torch.rand(4, 3, 6, 6).double(), torch.rand(4, 2, 6, 6).double()]])
def test_a_failed_reestimation_changes_nothing(batches):
    """No batch at all, or an error in one."""
    net = _network().train()
    net.bn.running_mean += 3
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises((ValueError, RuntimeError), match="got none, wanted at least one|channels"):
        reestimate_batchnorm(net, batches)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert net.bn.momentum == pytest.approx(0.1)


def test_reestimation_reads_nothing_without_batchnorm():
    batches = iter([torch.rand(3, 2)])
    reestimate_batchnorm(nn.Linear(2, 2), batches)
    assert len(list(batches)) == 1


def test_swa_is_the_plain_mean_of_the_models_that_count():
    """Started after 4 updates, one model every 3: the mean of those after updates 7, 10 and 13."""
    torch.manual_seed(0)
    net = _network()
    shards = LocalShards(torch.optim.SGD(net.parameters(), lr=0.1))
    average = WeightAverage(shards, net, partial(swa_rate, start=4, every=3))
    counted = []
    for update in range(1, 15):
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn_like(value))
        average.update()
        if update in (7, 10, 13):
            counted.append({key: value.clone() for key, value in net.state_dict().items()})
        if update <= 7:  # before, it follows the weights
            with average.applied():
                followed = net.fc.weight.clone()
            assert torch.equal(followed, net.fc.weight)
    with average.applied():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                wanted = torch.stack([model[key] for model in counted]).mean(0)
                torch.testing.assert_close(value, wanted, rtol=0, atol=1e-14)


def test_averages_are_the_parameters_own_while_others_are_frozen_and_thawed():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    net = nn.Sequential(first, second)
    second.weight.requires_grad_(False)
    average = WeightAverage(LocalShards(torch.optim.SGD(net.parameters(), lr=0.1)), net, lambda update: 0.5)
    start = first.weight.detach().clone()
    first.weight.data += 1
    first.weight.requires_grad_(False)
    second.weight.requires_grad_(True)
    thawed = second.weight.detach().clone()
    average.update()
    with average.applied():
        torch.testing.assert_close(first.weight.detach(), start + 0.5)
        assert torch.equal(second.weight, thawed)
    second.weight.data += 1
    average.update()
    with average.applied():
        torch.testing.assert_close(first.weight.detach(), start + 0.75)
        torch.testing.assert_close(second.weight.detach(), thawed + 0.5)
    assert torch.equal(first.weight, start + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_shares_of_half_precision_are_not_rounded_away(dtype):
    """A share of 2^-12 of a step from 1 to 2 is less than half a digit of fp16 at 1."""
    net = nn.Linear(1, 1, bias=False).to(dtype)
    net.weight.data.fill_(1)
    average = WeightAverage(LocalShards(torch.optim.SGD(net.parameters(), lr=0.1)), net, lambda _: 2**-12)
    net.weight.data.fill_(2)
    for _ in range(4096):
        average.update()
        if average.updates % 1024 == 0:
            with average.applied():  # rounds what the model computes with, not the average
                assert net.weight.dtype == dtype
    (kept,) = average.tensors()["average"]
    assert kept.item() == pytest.approx(2 - (1 - 2**-12) ** 4096, abs=1e-4)
    assert net.weight.item() == 2
