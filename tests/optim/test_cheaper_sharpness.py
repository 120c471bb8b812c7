"""LookSAM and MSAM against recorded trajectories, and what they keep."""

import numpy as np
import pytest
import torch
from torch import nn

from rtk.optim import LookSam, MomentumSam
from rtk.optim.looksam import ORTHOGONAL_GRADIENT
from tests.optim.sharp_cases import flat
from tests.optim.test_sharpness import BASES, recorded_network, train_recorded

LOOKSAM = [
    ("traj__looksam__sgd__k1__alpha0.7", 1e-8),
    ("traj__looksam__sgd__k1__alpha0.2", 1e-8),
    ("traj__looksam__sgd__k3__alpha0.7", 1e-8),
    ("traj__looksam__sgd__k3__alpha0.2", 1e-8),
    ("own__traj__looksam__adamw__k1__alpha0.7", 1e-10),
    ("own__traj__looksam__adamw__k3__alpha0.7", 1e-10),
]


def _looksam(net, key):
    base, k, alpha = key.split("looksam__")[1].split("__")
    optimizer = BASES[base](net.parameters())
    return LookSam(optimizer, rho=0.05, alpha=float(alpha[5:]), every=int(k[1:]))


@pytest.mark.parametrize(("key", "tolerance"), LOOKSAM)
def test_looksam_equals_the_recorded_trajectory(golden, key, tolerance):
    data = golden("sharpness_more")
    net = recorded_network(data)
    path, losses = train_recorded(net, _looksam(net, key), data)
    np.testing.assert_allclose(path, data[key], rtol=0, atol=tolerance)
    first = [values[0] for values in losses]
    np.testing.assert_allclose(first, data[key.replace("traj", "losses")], rtol=0, atol=tolerance)


def test_looksam_takes_a_second_pass_in_each_kth_step_only(golden):
    data = golden("sharpness_more")
    net = recorded_network(data)
    _, losses = train_recorded(net, _looksam(net, LOOKSAM[2][0]), data)
    assert [len(values) for values in losses] == [2, 1, 1] * 3


class DecayLast(torch.optim.AdamW):
    """The recorded AdamW: weights decay after the step."""

    @torch.no_grad()
    def step(self, closure=None):
        group = self.param_groups[0]
        decay, group["weight_decay"] = group["weight_decay"], 0.0
        super().step()
        group["weight_decay"] = decay
        for parameter in group["params"]:
            parameter.mul_(1 - group["lr"] * decay)


@pytest.mark.parametrize("rho", [0.05, 0.3])
@pytest.mark.parametrize("base", BASES)
def test_msam_equals_the_recorded_trajectory(golden, base, rho):
    """Recorded are SGD's decay of the moved weights, as of a penalty in the loss, and AdamW's last of all."""
    data = golden("sharpness_more")
    net, penalty = recorded_network(data), float(data["hp_sgd_weight_decay"]) * (base == "sgd")
    if base == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = DecayLast(net.parameters(), lr=1e-3, weight_decay=0.01)
    path, losses = train_recorded(net, MomentumSam(optimizer, rho), data, penalty)
    key = f"traj__msam__{base}__rho{rho}"
    np.testing.assert_allclose(path, data[f"{key}__centre"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(losses[:, 0], data[key.replace("traj", "losses")], rtol=0, atol=1e-10)
    assert losses.shape[1] == 1


def test_msam_computes_at_weights_moved_ahead_and_ends_at_its_own(golden):
    data = golden("sharpness_more")
    net, seen = recorded_network(data), []
    optimizer = MomentumSam(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), rho=0.3)

    def closure():
        seen.append(flat(net) - before)
        net(torch.ones(2, 6).double()).square().mean().backward()

    before = flat(net)
    optimizer.step(closure)
    before = flat(net)
    momentum = torch.cat([optimizer.base.state[p]["momentum_buffer"].flatten() for p in net.parameters()])
    optimizer.step(closure)
    assert not seen[0].any()  # there was no momentum
    torch.testing.assert_close(seen[1], -0.3 * momentum / momentum.norm())


def test_msam_leaves_the_weights_where_they_were_when_the_pass_fails():
    parameter = nn.Parameter(torch.randn(5))
    optimizer = MomentumSam(torch.optim.SGD([parameter], lr=0.1, momentum=0.9), rho=0.3)
    optimizer.step(lambda: parameter.square().sum().backward())
    before = parameter.detach().clone()

    def fail():
        assert not torch.equal(parameter, before)
        raise KeyError

    with pytest.raises(KeyError):
        optimizer.step(fail)
    assert torch.equal(parameter, before)


def test_an_optimiser_without_momentum_is_refused():
    parameter = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="base_optimizer: got SGD without momentum"):
        MomentumSam(torch.optim.SGD([parameter], lr=0.1))
    with pytest.raises(ValueError, match="alpha: got -1"):
        LookSam(torch.optim.SGD([parameter], lr=0.1), alpha=-1.0)


def test_looksam_goes_on_from_its_state_in_the_middle_of_a_cycle(golden):
    data = golden("sharpness_more")
    key, tolerance = LOOKSAM[5]
    net = recorded_network(data)
    first = _looksam(net, key)
    train_recorded(net, first, data, steps=slice(5))
    again = _looksam(net, key)
    again.load_state_dict(first.state_dict())
    path, _ = train_recorded(net, again, data, steps=slice(5, None))
    np.testing.assert_allclose(path[-1], data[key][-1], rtol=0, atol=tolerance)


def test_what_looksam_keeps_is_orthogonal_to_the_gradient_and_adds_a_share_of_its_length():
    torch.manual_seed(0)
    parameter, scale = nn.Parameter(torch.randn(7).double()), torch.rand(7).double()
    optimizer = LookSam(torch.optim.SGD([parameter], lr=0.1), rho=0.5, alpha=0.6, every=2)

    def gradient():
        return torch.autograd.grad((parameter**4 * scale).sum(), parameter)[0]

    g = gradient()
    optimizer.step(lambda: (parameter**4 * scale).sum().backward())
    kept = optimizer.state[parameter][ORTHOGONAL_GRADIENT].clone()
    assert abs(torch.dot(kept, g)) < 1e-12 * g.norm() * kept.norm() + 1e-12
    before, g = parameter.detach().clone(), gradient()
    optimizer.step(lambda: (parameter**4 * scale).sum().backward())
    added = (before - parameter.detach()) / 0.1 - g
    torch.testing.assert_close(added, 0.6 * g.norm() / kept.norm() * kept)


@pytest.mark.parametrize("at_pass", [0, 1])
def test_looksam_keeps_nothing_that_is_not_finite(at_pass):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = LookSam(torch.optim.SGD([parameter], lr=0.1), every=2)
    for _ in range(2):
        optimizer.step(lambda: parameter.square().sum().backward())
    passes = []

    def closure():
        passes.append(1)
        (parameter.square().sum() * (float("inf") if len(passes) - 1 == at_pass else 1)).backward()

    kept = optimizer.state[parameter][ORTHOGONAL_GRADIENT].clone()
    optimizer.step(closure)
    now = optimizer.state[parameter][ORTHOGONAL_GRADIENT]
    assert torch.equal(now, kept if at_pass == 0 else torch.zeros(3))
