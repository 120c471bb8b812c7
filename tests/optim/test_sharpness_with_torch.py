"""Sharpness-aware steps around torch's optimisers, under its schedules, against the steps written out."""

import copy
import io
import pickle
from functools import partial

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler as schedules

from rtk.optim import SharpnessAware

RHO, SIGMA, LMBDA, STEPS = 0.3, 0.7, 0.8, 4
BASES = {
    "sgd": partial(optim.SGD, lr=0.1),
    "nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": partial(optim.Adam, lr=0.02),
    "amsgrad": partial(optim.Adam, lr=0.02, amsgrad=True),
    "adamw": partial(optim.AdamW, lr=0.02, weight_decay=0.1),
    "nadam": partial(optim.NAdam, lr=0.02),
    "radam": partial(optim.RAdam, lr=0.02),
    "adamax": partial(optim.Adamax, lr=0.02),
    "rmsprop": partial(optim.RMSprop, lr=0.01, momentum=0.5),
    "adagrad": partial(optim.Adagrad, lr=0.05),
    "adadelta": partial(optim.Adadelta, lr=0.5),
    "asgd": partial(optim.ASGD, lr=0.05),
    "rprop": partial(optim.Rprop, lr=0.01),
}


def in_sequence(optimizer):
    parts = [schedules.LinearLR(optimizer, total_iters=2), schedules.ExponentialLR(optimizer, 0.5)]
    return schedules.SequentialLR(optimizer, parts, milestones=[2])


def one_cycle(optimizer):
    """With momentum's cycle where the base has one: it is looked up in `defaults`."""
    cycle = bool({"momentum", "betas"} & optimizer.defaults.keys())
    return schedules.OneCycleLR(optimizer, max_lr=0.1, total_steps=STEPS, cycle_momentum=cycle)


SCHEDULES = {
    "step": partial(schedules.StepLR, step_size=2, gamma=0.5),
    "multi_step": partial(schedules.MultiStepLR, milestones=[1, 3], gamma=0.5),
    "exponential": partial(schedules.ExponentialLR, gamma=0.7),
    "cosine": partial(schedules.CosineAnnealingLR, T_max=STEPS),
    "restarts": partial(schedules.CosineAnnealingWarmRestarts, T_0=2),
    "linear": partial(schedules.LinearLR, total_iters=4),
    "constant": partial(schedules.ConstantLR, total_iters=3),
    "polynomial": partial(schedules.PolynomialLR, total_iters=STEPS),
    "lambda": partial(schedules.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "multiplicative": partial(schedules.MultiplicativeLR, lr_lambda=lambda epoch: 0.8),
    "cyclic": partial(schedules.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=2, cycle_momentum=False),
    "one_cycle": one_cycle,
    "plateau": partial(schedules.ReduceLROnPlateau, patience=0, threshold=10.0),
    "sequence": in_sequence,
    "chained": lambda optimizer: schedules.ChainedScheduler(
        [schedules.ConstantLR(optimizer, total_iters=2), schedules.ExponentialLR(optimizer, 0.9)]
    ),
}
VARIANTS = ("sam", "asam", "fsam")


def network(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return net


def groups(net):
    """Two, so that their order and their settings count."""
    return [{"params": net[0].parameters()}, {"params": net[1].parameters(), "lr": 0.03}]


def loss_of(net, step):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return net(x.to(net[0].weight.dtype)).double().square().mean()


def closure_of(net, step):
    def closure():
        loss = loss_of(net, step)
        loss.backward()
        return loss

    return closure


def advance(scheduler):
    scheduler.step(*[1.0] * isinstance(scheduler, schedules.ReduceLROnPlateau))


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def sharp(net, base, variant, **options):
    options = {"rho": RHO, "sigma": SIGMA, "lmbda": LMBDA, **options}
    return SharpnessAware(BASES[base](groups(net)), variant, **options)


def train(net, optimizer, steps=range(STEPS), scheduler=None):
    for step in steps:
        optimizer.step(closure_of(net, step))
        if scheduler is not None:
            advance(scheduler)


INPUTS = torch.randn(STEPS, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def line():
    """Parameters of a line: the cheapest model with two groups."""
    start = torch.tensor([0.5, -1.0, 2.0, 0.3], dtype=torch.float64)
    return nn.Parameter(start[:3].clone()), nn.Parameter(start[3:].clone())


def groups_of_line(weight, bias):
    return [{"params": [weight]}, {"params": [bias], "lr": 0.03}]


def loss_of_line(parameters, step):
    weight, bias = parameters
    return (INPUTS[step] @ weight + bias).square().mean()


def backward_of_line(parameters, step):
    loss_of_line(parameters, step).backward()


def written_out(variant, base, schedule):
    """Weights and learning rates of a plain torch loop, with the ascent written out by parameter."""
    parameters = line()
    optimizer = BASES[base](groups_of_line(*parameters))
    scheduler = SCHEDULES[schedule](optimizer)
    averages, path, rates = None, [], []
    for step in range(STEPS):
        gradients = directions = torch.autograd.grad(loss_of_line(parameters, step), parameters)
        if variant == "fsam":
            before = averages or gradients
            directions = [g - SIGMA * m * bool(averages) for g, m in zip(gradients, before, strict=True)]
            averages = [LMBDA * m + (1 - LMBDA) * g for g, m in zip(gradients, before, strict=True)]
        scales = [p.detach().abs() ** (variant == "asam") for p in parameters]
        norm = torch.cat([s * d for s, d in zip(scales, directions, strict=True)]).norm()
        moved = [
            (p.detach() + RHO * s**2 * d / norm).requires_grad_()
            for p, s, d in zip(parameters, scales, directions, strict=True)
        ]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss_of_line(moved, step), moved), strict=True
        ):
            parameter.grad = gradient
        optimizer.step()
        advance(scheduler)
        path.append(torch.cat([p.detach() for p in parameters]))
        rates.append([group["lr"] for group in optimizer.param_groups])
    return path, rates


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("base", BASES)
def test_every_optimizer_under_every_schedule(base, schedule):
    for variant in VARIANTS:
        wanted, wanted_rates = written_out(variant, base, schedule)
        parameters = line()
        bare = BASES[base](groups_of_line(*parameters))
        optimizer = SharpnessAware(bare, variant, rho=RHO, sigma=SIGMA, lmbda=LMBDA)
        scheduler = SCHEDULES[schedule](optimizer)
        path, rates = [], []
        for step in range(STEPS):
            optimizer.step(partial(backward_of_line, parameters, step))
            advance(scheduler)
            path.append(torch.cat([p.detach() for p in parameters]))
            rates.append([group["lr"] for group in bare.param_groups])
        assert rates == wanted_rates
        torch.testing.assert_close(torch.stack(path), torch.stack(wanted), rtol=0, atol=1e-9)


# ---------------------------------------------------------------- saving, copying, pickling


def saved(state):
    """As a checkpoint on disk gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, map_location="cpu", weights_only=True)


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
    for variant in VARIANTS:
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


# ---------------------------------------------------------------- exceptions


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


# ---------------------------------------------------------------- freezing


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


# ---------------------------------------------------------------- number formats


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


# ---------------------------------------------------------------- settings


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
