"""SharpnessAware when passes fail, gradients overflow, precision is low or numbers are out of range."""

import pytest
import torch
from torch import nn, optim

from rtk.optim import SharpnessAware
from tests.optim.sharp_cases import STEPS, VARIANTS, closure_of, flat, loss_of, network, saved, sharp, train


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exception_in_the_second_pass_leaves_the_weights_where_they_were(variant, error):
    net = network()
    optimizer = sharp(net, "nesterov", variant)
    train(net, optimizer, range(2))
    before, passes = flat(net), []

    def failing():
        passes.append(flat(net))
        if len(passes) == 2:
            raise error
        return closure_of(net, 2)()

    with pytest.raises(error):
        optimizer.step(failing)
    assert torch.equal(passes[0], before)
    assert not torch.equal(passes[1], before)
    assert torch.equal(flat(net), before)
    assert optimizer.steps == 2
    if variant != "fsam":  # its average has seen the gradient twice
        whole = network()
        train(whole, sharp(whole, "nesterov", variant))
        train(net, optimizer, range(2, STEPS))
        assert torch.equal(flat(net), flat(whole))


def test_an_ascent_that_fails_half_way_moves_nothing():
    net = network()
    optimizer = sharp(net, "sgd", "sam")
    before = flat(net)
    closure_of(net, 0)()

    def fail():
        raise Stop

    optimizer.shards.publish = fail
    with pytest.raises(Stop):
        optimizer.ascend()
    assert torch.equal(flat(net), before)


def test_a_second_ascent_would_lose_the_weights_and_is_refused():
    net = network()
    optimizer = sharp(net, "sgd", "sam")
    before = flat(net)
    closure_of(net, 0)()
    optimizer.ascend()
    with pytest.raises(RuntimeError, match="restore"):
        optimizer.step(closure_of(net, 0))
    optimizer.restore()
    assert torch.equal(flat(net), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_ascends_as_far_as_fp32(variant, dtype):
    """The gradients' squares sum to 3.6e9, and their norm is 60,000 in fp32; fp16 ends at 65,504."""
    gradient = torch.full((900,), 2000.0).to(dtype)
    weights = {}
    for kept in (dtype, torch.float32):
        parameter = nn.Parameter(torch.full((900,), 2.0, dtype=kept))
        optimizer = SharpnessAware(optim.SGD([parameter], lr=0.1), variant, rho=30.0)
        for factor in (1, 2):  # the second of F-SAM's has an average to take off
            parameter.grad = (gradient * factor).to(kept)
            optimizer.ascend()
            weights[kept, factor] = parameter.detach().float().clone()
            optimizer.restore()
            assert (parameter == 2).all()
    for factor in (1, 2):
        torch.testing.assert_close(weights[dtype, factor], weights[torch.float32, factor], rtol=1e-2, atol=0)
        assert (weights[dtype, factor] - 2).norm().item() == pytest.approx(
            60.0 if variant == "asam" else 30.0, rel=0.01
        )


def test_norms_beyond_fp16_do_not_switch_the_ascent_off():
    parameter = nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    optimizer = SharpnessAware(optim.SGD([parameter], lr=0.1), rho=100.0)
    parameter.grad = torch.full_like(parameter, 1000.0)  # of norm 100,000
    optimizer.ascend()
    assert torch.equal(parameter.detach(), torch.ones_like(parameter))


def test_parameters_of_several_dtypes_share_one_norm():
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    parameters = [nn.Parameter(torch.zeros(4, dtype=dtype)) for dtype in dtypes]
    optimizer = SharpnessAware(optim.SGD(parameters, lr=0.1), "fsam", rho=1.0)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.ascend()
    for parameter in parameters:
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, 0.25))


def test_the_average_of_bf16_moves_by_less_than_a_digit_of_bf16():
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = SharpnessAware(optim.SGD([parameter], lr=0.0), "fsam", lmbda=0.9999)
    optimizer.step(lambda: parameter.sum().backward())
    for _ in range(10):
        optimizer.step(lambda: (2 * parameter).sum().backward())
    average = optimizer.state[parameter]["gradient_average"].item()
    assert average == pytest.approx(2 - 0.9999**10, abs=1e-6)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_average(variant, bad):
    net = network()
    optimizer = sharp(net, "sgd", variant)
    train(net, optimizer, range(2))
    before, state = flat(net), saved(optimizer.state_dict())["state"]
    closure_of(net, 2)()
    net[0].bias.grad[0] = bad
    with optimizer.ascended():
        assert torch.equal(flat(net), before)
    for number, kept in optimizer.state_dict()["state"].items():
        assert torch.equal(kept["gradient_average"], state[number]["gradient_average"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scaled_gradients_take_the_same_steps_and_an_overflow_takes_none(variant):
    plain, net = network(torch.float32), network(torch.float32)
    train(plain, sharp(plain, "adam", variant), range(3))
    optimizer = sharp(net, "adam", variant)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    for step in (0, 1, "overflow", 2):
        before = flat(net)
        for second in (False, True):
            with optimizer.ascended() if second else torch.enable_grad():
                loss = loss_of(net, 1 if step == "overflow" else step)
                scaler.scale(loss * (float("inf") if step == "overflow" else 1)).backward()
            if not second:
                scaler.unscale_(optimizer)
        scaler.step(optimizer.base)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(flat(net), before) == (step == "overflow")
    torch.testing.assert_close(flat(net), flat(plain), rtol=0, atol=1e-6)


def test_asam_is_sam_with_an_adaptive_radius():
    ends = []
    for options in ({"variant": "asam"}, {"variant": "sam", "adaptive": True}):
        net = network()
        train(net, sharp(net, "sgd", **options))
        ends.append(flat(net))
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho": float("nan")},
        {"rho": float("inf")},
        {"sigma": float("nan")},
        {"sigma": -1.0},
        {"lmbda": 5.0},
        {"lmbda": float("nan")},
        {"every": 1.5},
        {"every": float("nan")},
        {"every": float("inf")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: got"):
        sharp(network(), "sgd", **{"variant": "fsam", **wrong})
