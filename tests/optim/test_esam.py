"""ESAM against recorded trajectories, and what it draws and chooses."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rtk.optim import EfficientSam, SharpnessAware, most_risen
from tests.optim.test_sharpness import BASES, recorded_network, train_recorded


def train_on_chosen(net, optimizer, data, count):
    """Weights after each step of a loop of one's own, and the losses (steps,) before it."""
    path = [np.concatenate([p.detach().numpy().ravel() for p in net.parameters()])]
    losses = []
    for x, y in zip(*(torch.from_numpy(data[f"{name}_batches"]) for name in "xy"), strict=True):
        before = cross_entropy(net(x), y, reduction="none")
        before.mean().backward()
        with optimizer.ascended():
            with torch.no_grad():
                after = cross_entropy(net(x), y, reduction="none")
            rows = most_risen(before.detach(), after, count)
            cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.before_step()
        optimizer.base.step()
        optimizer.zero_grad()
        path.append(np.concatenate([p.detach().numpy().ravel() for p in net.parameters()]))
        losses.append(before.mean().item())
    return np.array(path), np.array(losses)


@pytest.mark.parametrize(
    "key", ["beta1.0__gamma1.0", "beta1.0__gamma0.5", "beta0.5__gamma1.0", "beta0.5__gamma0.5"]
)
def test_weights_equal_the_recorded_ones(golden, monkeypatch, key):
    """With the recorded draws and numbers of images. Recorded has 1e-7 in the norm, where rtk has 1e-12."""
    data = golden("sharpness_more")
    moved, used = data[f"esam__tensors_with_first_gradient__{key}"], data[f"esam__samples_used__{key}"]
    assert len(set(used)) == 1
    net = recorded_network(data)
    perturbed = float(key[4:7])
    optimizer = EfficientSam(BASES["sgd"](net.parameters()), rho=0.05, perturbed=perturbed)
    monkeypatch.setattr(optimizer, "takes_part", lambda name: bool(moved[optimizer.steps][int(name)]))
    path, losses = train_on_chosen(net, optimizer, data, int(used[0]))
    np.testing.assert_allclose(path, data[f"traj__esam__sgd__{key}"], rtol=0, atol=2e-8)
    np.testing.assert_allclose(losses, data[f"losses__esam__sgd__{key}"], rtol=0, atol=2e-8)


def test_with_all_weights_and_images_it_is_sam(golden):
    data = golden("sharpness_more")
    paths = []
    for kind, options in ((SharpnessAware, {}), (EfficientSam, {"perturbed": 1.0})):
        net = recorded_network(data)
        optimizer = kind(BASES["sgd"](net.parameters()), rho=0.3, **options)
        paths.append(train_recorded(net, optimizer, data)[0])
    np.testing.assert_array_equal(*paths)


def moves_of(optimizer, parameters):
    """What a step's ascent adds to each parameter."""
    before = [p.detach().clone() for p in parameters]
    sum(p.square().sum() for p in parameters).backward()
    with optimizer.ascended():
        return [(p.detach() - q) for p, q in zip(parameters, before, strict=True)]


def test_the_ascent_is_along_the_tensors_that_were_drawn():
    torch.manual_seed(0)
    channels_last = torch.randn(2, 3, 4, 4).double().to(memory_format=torch.channels_last)
    parameters = [nn.Parameter(torch.randn(5).double()) for _ in range(20)] + [nn.Parameter(channels_last)]
    optimizer = EfficientSam(torch.optim.SGD(parameters, lr=0.1), rho=0.3, perturbed=0.5, seed=3)
    drawn = []
    for _ in range(40):
        weights = [p.detach().clone() for p in parameters]
        part = [optimizer.takes_part(str(number)) for number in range(len(parameters))]
        length = torch.cat([w.flatten() for w, on in zip(weights, part, strict=True) if on]).norm()
        for move, weight, on in zip(moves_of(optimizer, parameters), weights, part, strict=True):
            torch.testing.assert_close(move, 0.3 / 0.5 * weight / length * on)
        drawn.append(part)
        optimizer.zero_grad()
        optimizer.before_step()
    shares = np.array(drawn).mean(axis=1)
    assert 0.42 < shares.mean() < 0.58  # 840 draws: four standard deviations are 0.07
    assert len({tuple(part) for part in drawn}) > 35


def test_a_step_in_which_no_tensor_is_drawn_does_not_move(monkeypatch):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = EfficientSam(torch.optim.SGD([parameter], lr=0.1))
    monkeypatch.setattr(optimizer, "takes_part", lambda name: False)
    assert not moves_of(optimizer, [parameter])[0].any()


def test_the_images_whose_loss_rose_most_are_chosen_the_first_of_equal_ones():
    before = torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0])
    after = torch.tensor([2.0, 5.5, 3.0, 0.5, 2.0])
    assert most_risen(before, after, 2).tolist() == [0, 2]
    assert most_risen(before, after, 3).tolist() == [0, 1, 2]
    assert most_risen(before, after, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"perturbed": 0.0}])
def test_a_share_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: got .*, wanted a number above 0"):
        EfficientSam(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), **options)
