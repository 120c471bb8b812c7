import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy

from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.models.perturb import fgsm, input_gradient, pgd
from rtk.objectives import active_terms
from rtk.objectives.objective import compute_losses


class Net(nn.Module):
    def __init__(self, data):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(256, 10)
        self.double().load_state_dict(
            {name: torch.from_numpy(data[f"net__{name.replace('.', '_')}"]) for name in self.state_dict()}
        )
        self.mean, self.std = (
            torch.from_numpy(data[f"net__{name}"]).view(1, 3, 1, 1) for name in ("mean", "std")
        )

    def forward(self, x):
        x = avg_pool2d(self.conv1((x - self.mean) / self.std).relu(), 2)
        return self.fc(avg_pool2d(self.conv2(x).relu(), 2).flatten(1))


@pytest.fixture
def recorded(golden):
    data = golden("rat_step")
    x, y = torch.from_numpy(data["x"]).double(), torch.from_numpy(data["y"])
    return data, Net(data), x, y


def directions(net, x, y, mode):
    right = net(x).argmax(1) == y
    return {"rat": torch.where(right, 1.0, -1.0), "at": None, "reverse_at": -torch.ones(len(y))}[mode]


def check(data, name, net, x, x_adv, y, weights=(1.0, 1.0)):
    clean, adv = cross_entropy(net(x), y), cross_entropy(net(x_adv), y)
    loss = weights[0] * clean + weights[1] * adv
    np.testing.assert_allclose(loss.item(), data[f"{name}__loss"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(adv.item(), data[f"{name}__adv_loss"], rtol=0, atol=1e-9)
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    for (parameter, _), gradient in zip(net.named_parameters(), gradients, strict=True):
        expected = data[f"{name}__grad__{parameter.replace('.', '_')}"]
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["rat", "at", "reverse_at"])
def test_one_step_equals_recorded_one(recorded, mode):
    data, net, x, y = recorded
    name = {"rat": "rat_fgsm_flex", "at": "at_fgsm", "reverse_at": "reverse_at_fgsm"}[mode]
    x_adv = fgsm(x, input_gradient(net, x, y), 1e-3, directions(net, x, y, mode), clip=False)
    check(data, name, net, x, x_adv, y)


@pytest.mark.parametrize(
    ("mode", "name"), [("rat", "rat_pgd7_flex_alpha3e-4"), ("at", "own__at_pgd7_sign_clip01")]
)
def test_seven_steps_equal_recorded_ones(recorded, mode, name):
    data, net, x, y = recorded
    check(data, name, net, x, pgd(net, x, y, 1e-3, 3e-4, 7, directions(net, x, y, mode)), y)


def test_default_step_size_and_weights_equal_recorded_ones(recorded):
    data, net, x, y = recorded
    rat = directions(net, x, y, "rat")
    check(data, "rat_pgd7_flex_alpha_default0.003_eps0.01", net, x, pgd(net, x, y, 0.01, 0.003, 7, rat), y)
    x_adv = fgsm(x, input_gradient(net, x, y), 0.01, rat, clip=False)
    check(data, "rat_fgsm_flex_lam0.5_ori0.7_eps0.01", net, x, x_adv, y, weights=(0.7, 0.5))


@pytest.mark.parametrize("mode", ["rat", "at"])
def test_the_objective_accumulates_the_recorded_gradients(recorded, mode):
    data, net, x, y = recorded
    rat = {"weight": 1.0, "eps": 1e-3, "mode": mode, "solver": "pgd", "step_size": 3e-4, "steps": 7}
    objective = build_config({"data": {"train": "unused"}, "objective": {"rat": rat}}).objective
    for ((_, losses),) in compute_losses(net, {"clean": View(x, y)}, active_terms(objective)):
        losses.mean().backward()
    name = {"rat": "rat_pgd7_flex_alpha3e-4", "at": "own__at_pgd7_sign_clip01"}[mode]
    for parameter, value in net.named_parameters():
        expected = data[f"{name}__grad__{parameter.replace('.', '_')}"]
        np.testing.assert_allclose(value.grad.numpy(), expected, rtol=0, atol=1e-9)


def test_fgsm_reuses_the_clean_gradient(recorded):
    _, net, x, y = recorded
    objective = build_config(
        {"data": {"train": "unused"}, "objective": {"rat": {"weight": 1.0, "eps": 0.01}}}
    )
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    collected = {}
    for ((term, losses),) in compute_losses(net, {"clean": View(x, y)}, active_terms(objective.objective)):
        losses.mean().backward()
        collected[term.name] = losses.mean().item()
    assert len(passes) == 2
    x_adv = fgsm(x, input_gradient(net, x, y), 0.01, directions(net, x, y, "rat"))
    assert collected["rat"] == pytest.approx(cross_entropy(net(x_adv), y).item(), abs=1e-12)


def test_images_stay_in_range_and_in_the_box(recorded):
    _, net, x, y = recorded
    for perturbed in (pgd(net, x, y, 0.1, 0.08, 3), fgsm(x, input_gradient(net, x, y), 0.1)):
        assert perturbed.min() >= 0
        assert perturbed.max() <= 1
        assert (perturbed - x).abs().max() <= 0.1 + 1e-12


def test_parameters_and_running_statistics_are_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).train()
    pgd(net, torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.long), 0.1, 0.05, 2)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, torch.zeros(4))
