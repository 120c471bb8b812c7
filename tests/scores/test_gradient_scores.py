import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from rtk.models.perturb import fgsm, logits_and_gradient
from rtk.scores.gradients import odin, rr_fast
from rtk.scores.logits import msp, soft_margin
from rtk.scores.minimal import deepfool, fab, project_linf
from rtk.scores.radius import class_margin, first_crossing, rr_bs


class Net(nn.Module):
    """The recorded network; counts the images that pass forward."""

    def __init__(self, data):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(256, 10)
        self.double().load_state_dict(
            {name: torch.from_numpy(data[f"net__{name.replace('.', '_')}"]) for name in self.state_dict()}
        )
        for name in ("mean", "std"):
            value = torch.from_numpy(data[f"net__{name}"]).double().view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.images_seen = 0

    def forward(self, x):
        self.images_seen += len(x)
        x = avg_pool2d(self.conv1((x - self.mean) / self.std).relu(), 2)
        return self.fc(avg_pool2d(self.conv2(x).relu(), 2).flatten(1))


@pytest.fixture(scope="module")
def recorded(golden):
    data = dict(golden("scores_gradient").items())
    return data, Net(data).eval(), torch.from_numpy(data["x"]).double()


def close(found, expected, rtol=0.0, atol=1e-8):
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=atol)


def test_recorded_network_is_rebuilt(recorded):
    data, net, x = recorded
    close(net(x).detach(), data["logits"])


@pytest.mark.parametrize("temperature", [1, 1.5])
@pytest.mark.parametrize("alpha", [0.01, 0.001])
def test_rr_fast_meets_the_definition(recorded, alpha, temperature):
    data, net, x = recorded
    found = rr_fast(net, x, step_size=alpha, temperature=temperature)
    close(found, data[f"own__rrfast_paper_alpha{alpha}_T{temperature}"])


def test_rr_fast_direction_is_the_sign_of_the_cross_entropy_gradient(recorded):
    data, net, x = recorded
    _, gradient = logits_and_gradient(net, x, lambda z: -soft_margin(z).sum())
    assert (gradient.sign().numpy() == data["own__direction_sign_grad_ce_T1"]).all()


def test_published_rr_fast(recorded):
    data, net, x = recorded
    published = {"definition": "published"}
    for alpha in (0.01, 0.001):
        close(rr_fast(net, x, step_size=alpha, **published), data[f"rat__RobustRadiusFast_step{alpha}_T1"])
    found = rr_fast(net, x, step_size=0.001, temperature=1.5, **published)
    close(found, data["rat__RobustRadiusFast_step0.001_T1.5_as_coded"])
    close(rr_fast(net, x, definition="exp"), data["rat__RobustRadiusFastExp"])
    close(rr_fast(net, x, definition="smooth"), data["rat__RobustRadiusFastSmooth_T1"])


def test_rr_fast_in_single_precision(recorded):
    data, _, x = recorded
    single = Net(data).float()
    close(rr_fast(single, x.float()), data["own__rrfast_paper_alpha0.01_T1"], rtol=1e-3)


def test_a_saturated_prediction_has_a_radius(recorded):
    data, _, x = recorded
    loud = Net(data).float()
    with torch.no_grad():
        loud.fc.weight *= 1000
        loud.fc.bias *= 1000
    assert (msp(loud(x.float())) == 1).any()
    close(rr_fast(loud, x.float()), rr_fast(Net(data), x, temperature=1e-3).numpy(), rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"clip": False}, "rrbs_fgsm_NoisePerturbedRateTester_noclip"),
        ({}, "rrbs_fgsm_RobustRadiusTester_clip01"),
        ({"solver": "pgd"}, "rrbs_pgd10_RobustRadiusTester"),
    ],
)
def test_rr_bs_finds_the_recorded_radii(recorded, options, name):
    data, net, x = recorded
    close(rr_bs(net, x, **options), data[f"rat__{name}"], rtol=1e-2, atol=1e-6)


def test_rr_bs_radius_separates_kept_from_changed(recorded):
    _, net, x = recorded
    logits, gradient = logits_and_gradient(net, x, lambda z: -soft_margin(z).sum())
    predicted, radius = logits.argmax(1), rr_bs(net, x)
    for factor, kept in ((0.995, True), (1.005, False)):
        attacked = fgsm(x, gradient, radius * factor)
        assert ((net(attacked).argmax(1) == predicted) == kept).all()


@pytest.mark.parametrize("solver", ["fgsm", "pgd"])
def test_rr_bs_at_a_temperature_is_that_of_logits_divided_by_it(recorded, solver):
    data, net, x = recorded
    warm = Net(data)
    with torch.no_grad():
        warm.fc.weight /= 1.5
        warm.fc.bias /= 1.5
    at_temperature = rr_bs(net, x, solver=solver, temperature=1.5)
    close(at_temperature, rr_bs(warm, x, solver=solver).numpy(), rtol=1e-2, atol=1e-6)
    assert (at_temperature - rr_bs(net, x, solver=solver)).abs().max() > 1e-5


def test_rr_bs_stops_early_and_honours_the_budget(recorded):
    data, _, x = recorded
    for budget, most in ((24, 9), (3, 4)):
        net = Net(data)
        rr_bs(net, x, budget=budget)
        assert net.images_seen <= most * len(x)


def test_an_image_is_scored_alone(recorded):
    _, net, x = recorded
    for score in (odin, rr_fast, rr_bs, deepfool, fab):
        close(score(net, x[3:5]), score(net, x)[3:5].numpy(), rtol=1e-9)


def test_crossing_of_awkward_margins():
    """Steps, late falls, margins that grow first and margins that never cross."""
    roots = torch.tensor([3e-5, 0.004, 0.3, 0.07, 2.0], dtype=torch.float64)

    def margin_at(rows, radius):
        linear = roots[rows] - radius
        step = torch.where(linear > 0, 1.0, -1e-3)
        late = roots[rows] ** 8 - radius**8
        grown = linear * (1 + 50 * radius)
        return torch.stack([step.double(), late, grown, linear, linear])[rows, torch.arange(len(rows))]

    start = margin_at(torch.arange(5), torch.zeros(5, dtype=torch.float64))
    found = first_crossing(margin_at, start, torch.full((5,), 1e-3, dtype=torch.float64), 0.005, 24)
    close(found, [3e-5, 0.004, 0.3, 0.07, 1.0], rtol=5e-3)


def test_deepfool_meets_both_recordings(recorded):
    data, net, x = recorded
    close(deepfool(net, x), data["rat__deepfool_float64_linf_of_perturbation"], atol=1e-4)
    close(deepfool(net, x), data["torchattacks__deepfool_steps50_overshoot0.02_float64__linf"], atol=1e-4)
    found = deepfool(net, x, norm="l2")
    close(found, data["torchattacks__deepfool_steps50_overshoot0.02_float64__l2"], atol=1e-4)
    single = deepfool(Net(data).float(), x.float())
    close(single, data["rat__deepfool_float32_linf_of_perturbation"], atol=1e-4)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (10, "torchattacks__fab_linf_steps10_eps1_float32__linf"),
        (10, "rat__fab_float32_linf_of_perturbation"),
        (100, "torchattacks__fab_linf_steps100_eps1_float32__linf"),
    ],
)
def test_fab_meets_the_recordings(recorded, steps, name):
    data, _, x = recorded
    close(fab(Net(data).float(), x.float(), steps=steps), data[name], rtol=0.02)


def test_projection_reaches_the_plane_with_the_smallest_change():
    points = torch.tensor([[0.5, 0.5], [0.5, 0.9], [0.5, 0.5]], dtype=torch.float64)
    normals = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    found = project_linf(points, normals, torch.tensor([1.4, 1.8, 9.0], dtype=torch.float64))
    close(found, [[0.2, 0.2], [0.3, 0.1], [0.5, -0.5]], atol=1e-12)


@pytest.mark.parametrize("temperature", [1, 1.5, 1000])
@pytest.mark.parametrize("epsilon", [0.001, 0.0005])
def test_odin_and_its_opposite(recorded, epsilon, temperature):
    data, net, x = recorded
    options = {"temperature": temperature, "epsilon": epsilon}
    close(odin(net, x, **options), data[f"own__perturbed_odin_paper_up_delta{epsilon}_T{temperature}"])
    down = odin(net, x, step="down", **options)
    close(down, data[f"own__perturbed_down_delta{epsilon}_T{temperature}"])
    coded = "MSR" if temperature == 1 else f"ODIN_T{temperature}"
    close(down, data[f"rat__perturbed_as_coded_delta{epsilon}__{coded}"])


@pytest.mark.parametrize("temperature", [1, 1000])
def test_odin_as_openood(recorded, temperature):
    """OpenOOD divides the step by the normalisation's standard deviation: a wider step for each channel."""
    data, net, x = recorded
    close(odin(net, x, temperature=temperature), data[f"openood__odin_T{temperature}_eps0.0014_std1"])
    _, gradient = logits_and_gradient(net, x, lambda z: soft_margin(z / temperature).sum())
    std = torch.tensor([0.2470, 0.2435, 0.2616], dtype=torch.float64).view(1, 3, 1, 1)
    moved = x + 0.0014 * gradient.sign() / std
    found = msp(net(moved).detach() / temperature)
    close(found, data[f"openood__odin_T{temperature}_eps0.0014_cifar10std"])


def test_margin_of_a_class_that_is_not_predicted_is_negative():
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 2.0]])
    assert class_margin(logits, torch.tensor([0, 2])).tolist() == [1.0, -3.0]


def test_deepfool_leaves_an_image_without_gradient_where_it_is():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    nn.init.zeros_(flat[1].weight)
    flat[1].bias.data = torch.tensor([5.0, 0.0, -5.0])
    assert deepfool(flat, torch.rand(4, 3, 2, 2)).tolist() == [0.0] * 4
