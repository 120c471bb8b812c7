import re

import numpy as np
import pytest
import torch
from torch import nn

from rtk.optim import SharpnessAware, ascent

BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01),
}
TRAJECTORIES = [
    f"traj__{algorithm}__{base}__rho{rho}__adaptive{adaptive}{extra}"
    for base in BASES
    for rho in ("0.05", "0.2")
    for adaptive in (0, 1)
    for algorithm, extra in [("sam", ""), ("fsam", "__lmbda0.8__sigma1"), ("fsam", "__lmbda0.9__sigma1")]
]


def recorded_network(data) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 4)).double()
    for name, parameter in net.named_parameters():
        parameter.data = torch.from_numpy(data[f"init_param__{name.replace('.', '_')}"].copy())
    return net


def _flat(net) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()


def train_recorded(net, optimizer, data, penalty=0.0, steps=slice(None)):
    """Weights after every step, and the losses of its passes, less a penalty on the weights' squares."""
    path, losses = [_flat(net)], []
    x_batches, y_batches = (torch.from_numpy(data[name][steps]) for name in ("x_batches", "y_batches"))
    for x, y in zip(x_batches, y_batches, strict=True):
        values = []

        def closure(x=x, y=y, values=values):
            loss = nn.functional.cross_entropy(net(x), y)
            (loss + penalty / 2 * sum(p.square().sum() for p in net.parameters())).backward()
            values.append(loss.item())
            return loss

        optimizer.step(closure)
        path.append(_flat(net))
        losses.append(values)
    same = len({len(values) for values in losses}) == 1
    return np.array(path), np.array(losses) if same else losses


@pytest.mark.parametrize("key", TRAJECTORIES)
def test_trajectory_equals_recorded_one(golden, key):
    data = golden("sam_fsam")
    algorithm, base = key.split("__")[1:3]
    number = {name: float(value) for name, value in re.findall(r"(rho|adaptive|lmbda|sigma)([\d.]+)", key)}
    net = recorded_network(data)
    optimizer = SharpnessAware(
        BASES[base](net.parameters()),
        algorithm,
        rho=number["rho"],
        sigma=number.get("sigma", 1.0),
        lmbda=number.get("lmbda", 0.9),
        adaptive=bool(number["adaptive"]),
    )
    path, losses = train_recorded(net, optimizer, data)
    np.testing.assert_allclose(path, data[key], rtol=0, atol=1e-10)
    np.testing.assert_allclose(losses, data[key.replace("traj", "losses")], rtol=0, atol=1e-10)


def test_state_dict_continues_the_trajectory(golden):
    data = golden("sam_fsam")
    key = "traj__fsam__adamw__rho0.2__adaptive0__lmbda0.8__sigma1"
    net = recorded_network(data)
    optimizer = SharpnessAware(BASES["adamw"](net.parameters()), "fsam", rho=0.2, lmbda=0.8)
    train_recorded(net, optimizer, data, steps=slice(3))
    fresh = SharpnessAware(BASES["adamw"](net.parameters()), "fsam", rho=0.2, lmbda=0.8)
    fresh.load_state_dict(optimizer.state_dict())
    path, _ = train_recorded(net, fresh, data, steps=slice(3, None))
    np.testing.assert_allclose(path[-1], data[key][-1], rtol=0, atol=1e-10)


def test_zero_gradient_leaves_the_weights_in_place():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = SharpnessAware(torch.optim.SGD([parameter], lr=0.1), rho=0.5)
    optimizer.step(lambda: (parameter * 0).sum().backward())
    assert torch.equal(parameter.data, torch.ones(3))


def test_an_optimiser_that_evaluates_the_loss_itself_is_refused():
    with pytest.raises(ValueError, match="base_optimizer: got LBFGS"):
        SharpnessAware(torch.optim.LBFGS([nn.Parameter(torch.ones(3))]))


def some_tensors(count: int) -> list[list[torch.Tensor]]:
    """Lists of tensors of the same shapes."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (), (5, 4), (40, 2), (1,), (60,)]
    return [[torch.rand(shape, generator=generator) for shape in shapes] for _ in range(count)]


@pytest.mark.parametrize("part", [1, 7, 50, 10**6])
def test_squares_are_summed_whatever_the_portions(monkeypatch, part):
    monkeypatch.setattr(ascent, "PART", part)
    tensors, factors = some_tensors(2)
    expected = sum((t * f).square().sum() for t, f in zip(tensors, factors, strict=True))
    torch.testing.assert_close(ascent.sum_of_squares(tensors, factors), expected)
    torch.testing.assert_close(ascent.sum_of_squares(tensors), sum(t.square().sum() for t in tensors))


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_averages_move_on_by_the_gradients_from_the_directions(sigma):
    gradients, averages = some_tensors(2)
    expected = [0.9 * m + 0.1 * g for g, m in zip(gradients, averages, strict=True)]
    directions = [g - sigma * m for g, m in zip(gradients, averages, strict=True)]
    ascent.move_averages_(averages, directions, sigma, 0.9)
    torch.testing.assert_close(averages, expected)


def test_learning_rate_schedules_reach_the_base_optimizer():
    parameter = nn.Parameter(torch.ones(3))
    base = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(SharpnessAware(base), step_size=1, gamma=0.5)
    schedule.step()
    assert base.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("arguments", "named"), [({"variant": "sma"}, "variant"), ({"rho": -1.0}, "rho"), ({"every": 0}, "every")]
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        SharpnessAware(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), **arguments)


def test_step_needs_a_closure_and_restore_an_ascent():
    optimizer = SharpnessAware(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    with pytest.raises(ValueError, match="closure"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="ascend"):
        optimizer.restore()


def test_every_third_step_ascends_also_after_a_restart():
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    passes = []

    def closure():
        loss = net(torch.ones(4, 3)).square().mean()
        loss.backward()
        passes[-1] += 1
        return loss

    def steps(optimizer, count):
        for _ in range(count):
            passes.append(0)
            optimizer.step(closure)

    first = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), every=3)
    steps(first, 4)
    second = SharpnessAware(torch.optim.SGD(net.parameters(), lr=0.1), every=3)
    second.load_state_dict(first.state_dict())
    steps(second, 3)
    assert passes == [2, 1, 1, 2, 1, 1, 2]
