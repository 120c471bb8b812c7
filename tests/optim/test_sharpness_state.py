"""What SharpnessAware keeps: saved and loaded, copied, pickled; groups added, weights frozen."""

import copy
import pickle

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedules

from rtk.optim import SharpnessAware
from rtk.optim.sharpness import GRADIENT_AVERAGE
from tests.optim.sharp_cases import (
    BASES,
    LMBDA,
    STEPS,
    VARIANTS,
    flat,
    loss_of,
    network,
    saved,
    sharp,
    train,
)


def carried_by_state(net, optimizer, base):
    again = sharp(net, base, optimizer.variant)
    again.load_state_dict(saved(optimizer.state_dict()))
    return net, again


def deep_copied(net, optimizer, base):
    return copy.deepcopy((net, optimizer))


def pickled(net, optimizer, base):
    return pickle.loads(pickle.dumps((net, optimizer)))


@pytest.mark.parametrize("carry", [carried_by_state, deep_copied, pickled])
@pytest.mark.parametrize("base", BASES)
def test_saved_copied_or_pickled_it_goes_on_as_if_nothing_had_been(base, carry):
    for variant in (*VARIANTS, "looksam", "esam"):
        whole = network()
        train(whole, sharp(whole, base, variant))
        net = network()
        optimizer = sharp(net, base, variant)
        schedules.ConstantLR(optimizer, factor=1.0)  # wraps `step` in the object itself
        train(net, optimizer, range(3))
        net, optimizer = carry(net, optimizer, base)
        assert optimizer.steps == 3
        train(net, optimizer, range(3, STEPS))
        # Not bit by bit: torch turns NAdam's fp32 product of momenta into the parameters' dtype.
        torch.testing.assert_close(flat(net), flat(whole), rtol=0, atol=1e-7)


def test_a_copy_has_nothing_in_common_with_the_original():
    net = network()
    optimizer = sharp(net, "adam", "fsam")
    train(net, optimizer, range(2))
    before, state = flat(net), copy.deepcopy(saved(optimizer.state_dict()))
    again, its_own = copy.deepcopy((net, optimizer))
    loaded = carried_by_state(copy.deepcopy(net), optimizer, "adam")[1]
    train(again, its_own, range(2, 4))
    loaded.shards.gradients()
    loaded.ascend()
    assert torch.equal(flat(net), before)
    for number, kept in optimizer.state_dict()["state"].items():
        assert torch.equal(kept["gradient_average"], state["state"][number]["gradient_average"])


def test_state_is_laid_out_as_torch_s_own():
    net = network()
    optimizer = sharp(net, "adam", "fsam")
    train(net, optimizer, range(2))
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3]]
    moments = {"step", "exp_avg", "exp_avg_sq"}
    assert {number: set(kept) for number, kept in state["state"].items()} == {
        number: moments | {"gradient_average"} for number in range(4)
    }
    assert {name for kept in optimizer.base.state.values() for name in kept} == moments


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_loaded_average_fits_the_parameters(dtype):
    """As wide as they are, but no narrower than fp32; what was saved stays the caller's."""
    net = network(torch.float64)
    optimizer = sharp(net, "sgd", "fsam")
    train(net, optimizer, range(2))
    state = optimizer.state_dict()
    other = network(dtype)
    loaded = sharp(other, "sgd", "fsam")
    loaded.load_state_dict(state)
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    for parameter, source in zip(other.parameters(), net.parameters(), strict=True):
        average, original = (
            o.state[p]["gradient_average"] for o, p in ((loaded, parameter), (optimizer, source))
        )
        assert average.dtype == kept
        assert torch.equal(average, original.to(kept))
    before = [kept["gradient_average"].clone() for kept in state["state"].values()]
    train(other, loaded, [2])
    assert all(
        torch.equal(a, b["gradient_average"]) for a, b in zip(before, state["state"].values(), strict=True)
    )


def test_a_loaded_average_moves_to_the_parameters_device():
    parameter = nn.Parameter(torch.ones(2, device="meta"))
    on_cpu = nn.Parameter(torch.ones(2))
    optimizer = SharpnessAware(optim.SGD([on_cpu], lr=0.1), "fsam")
    optimizer.step(lambda: on_cpu.sum().backward())
    moved = SharpnessAware(optim.SGD([parameter], lr=0.1), "fsam")
    moved.load_state_dict(optimizer.state_dict())
    assert moved.state[parameter]["gradient_average"].device.type == "meta"


def test_a_schedule_goes_on_after_the_base_has_loaded_its_state():
    net = network()
    optimizer = sharp(net, "adamw", "sam")
    scheduler = schedules.ExponentialLR(optimizer, 0.5)
    train(net, optimizer, [0], scheduler)
    optimizer.base.load_state_dict(optimizer.base.state_dict())
    train(net, optimizer, [1], scheduler)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.02 * 0.25, 0.03 * 0.25]


def test_state_of_other_groups_is_refused():
    net = network()
    state = sharp(net, "sgd", "sam").state_dict()
    one = SharpnessAware(optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="number of parameter groups"):
        one.load_state_dict(state)


def test_a_new_group_is_trained_and_has_an_average_of_its_own():
    net = network()
    optimizer = SharpnessAware(optim.SGD(net[0].parameters(), lr=0.1), "fsam")
    train(net, optimizer, range(2))
    optimizer.add_param_group({"params": net[1].parameters(), "lr": 0.01})
    before = net[1].weight.detach().clone()
    net.zero_grad()
    train(net, optimizer, [2])
    assert not torch.equal(net[1].weight, before)
    assert [group["lr"] for group in optimizer.base.param_groups] == [0.1, 0.01]
    gradient = torch.autograd.grad(loss_of(net, 2), net[1].weight)[0]
    assert optimizer.state[net[1].weight]["gradient_average"].shape == gradient.shape


def test_a_parameter_keeps_its_average_while_others_are_frozen_and_thawed():
    net = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3))).double()
    first, second, third = (layer.weight for layer in net)
    second.requires_grad_(False)
    optimizer = SharpnessAware(optim.SGD(net.parameters(), lr=0.1), "fsam", lmbda=LMBDA)

    def step():
        gradients = {}

        def closure():
            loss = net(torch.ones(1, 2, dtype=torch.float64)).square().sum()
            loss.backward()
            if not gradients:
                gradients.update({p: p.grad.clone() for p in net.parameters() if p.grad is not None})
            return loss

        optimizer.step(closure)
        return gradients

    def average(parameter):
        return optimizer.state[parameter]["gradient_average"].clone()

    g = step()
    assert torch.equal(average(first), g[first])
    assert torch.equal(average(third), g[third])
    first.requires_grad_(False)
    second.requires_grad_(True)
    kept = {parameter: average(parameter) for parameter in (first, third)}
    g = step()
    assert torch.equal(average(first), kept[first])
    assert torch.equal(average(second), g[second])
    torch.testing.assert_close(average(third), LMBDA * kept[third] + (1 - LMBDA) * g[third])
    first.requires_grad_(True)
    state = saved(optimizer.state_dict())
    assert torch.equal(state["state"][0]["gradient_average"], kept[first])
    g = step()
    torch.testing.assert_close(average(first), LMBDA * kept[first] + (1 - LMBDA) * g[first])


def test_a_state_of_the_earlier_layout_is_read_or_refused():
    net = network()
    net[0].bias.requires_grad_(False)
    optimizer = sharp(net, "adam", "fsam")
    train(net, optimizer, range(2))
    averages = [m[GRADIENT_AVERAGE] for m in optimizer.state_dict()["state"].values()]
    earlier = {"base": optimizer.base.state_dict(), "gradient_average": averages, "steps": optimizer.steps}
    again = sharp(net, "adam", "fsam")
    again.load_state_dict(saved(earlier))
    assert again.steps == 2
    expected = optimizer.state_dict()["state"]
    assert again.state_dict()["state"].keys() == expected.keys() == {0, 2, 3}
    for number, kept in again.state_dict()["state"].items():
        assert torch.equal(kept[GRADIENT_AVERAGE], expected[number][GRADIENT_AVERAGE])
        assert torch.equal(kept["exp_avg"], expected[number]["exp_avg"])
    net[0].bias.requires_grad_(True)  # which average was whose is no longer told by their order
    with pytest.raises(ValueError, match="gradient_average: got .* wanted those of the trained"):
        sharp(net, "adam", "fsam").load_state_dict(earlier)
