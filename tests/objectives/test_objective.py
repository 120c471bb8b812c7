from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from rtk.config.load import build_config
from rtk.config.model import ModelConfig
from rtk.data.views.maker import View
from rtk.data.views.mixing import mixup, mixup_targets
from rtk.models import build_model
from rtk.models.batchnorm import batchnorm_layers
from rtk.models.classifier import concatenates_views
from rtk.objectives import active_terms
from rtk.objectives.cross_entropy import soft_cross_entropy
from rtk.objectives.objective import compute_losses


@pytest.fixture
def recorded(golden):
    data = golden("losses")
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 7)).double()
    net.load_state_dict({k: torch.from_numpy(data[f"net__{k.replace('.', '_')}"]) for k in net.state_dict()})
    return data, net, torch.from_numpy(data["x"]).double(), torch.from_numpy(data["y"])


def gradient(net, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))]).numpy()


@pytest.mark.parametrize("smoothing", ["0.0", "0.1"])
def test_regmixup_equals_recorded_one(recorded, smoothing):
    data, net, x, y = recorded
    partners = torch.from_numpy(data["mixup_perm"])
    lam = torch.full((len(x),), float(data["mixup_lambda"]), dtype=torch.float64)
    targets = mixup_targets(y, y[partners], lam, 7)
    loss = soft_cross_entropy(net(mixup(x, x[partners], lam)), targets, float(smoothing)).mean()
    np.testing.assert_allclose(loss.item(), data[f"regmixup_loss__ls{smoothing}"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(gradient(net, loss), data[f"regmixup_grad__ls{smoothing}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("smoothing", ["0.0", "0.1"])
def test_cross_entropy_equals_recorded_one(recorded, smoothing):
    data, net, x, y = recorded
    loss = soft_cross_entropy(net(x), y, float(smoothing)).mean()
    np.testing.assert_allclose(loss.item(), data[f"ce_loss__ls{smoothing}"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(gradient(net, loss), data[f"ce_grad__ls{smoothing}"], rtol=0, atol=1e-10)


def objective(**weights):
    tree = {name: {"weight": weight} for name, weight in weights.items()}
    return build_config({"data": {"train": "unused"}, "objective": tree}).objective


def test_terms_of_weight_zero_cost_nothing():
    assert [term.name for term in active_terms(objective())] == ["cross_entropy"]
    assert [term.name for term in active_terms(objective(cross_entropy=0, regpixmix=0.5))] == ["regpixmix"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"regmixup": 1, "regpixmix": 1}, [True, False, False, False, False, False]),
        ({"cross_entropy": 0, "regmixup": 1, "regpixmix": 1}, [True, False, False, False]),
        ({"cross_entropy": 0, "cutmix": 1}, [True, False]),
    ],
)
def test_only_the_first_view_of_the_first_pass_moves_batchnorm_statistics(weights, expected):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).train()
    views = {
        name: View(torch.rand(6, 3, 8, 8) + i, torch.zeros(6, dtype=torch.long))
        for i, name in enumerate(("clean", "mixed", "pixmix", "cutmix"))
    }
    means = [model[1].running_mean.clone()]
    for first_pass in (True, False):
        for _ in compute_losses(model, views, active_terms(objective(**weights)), first_pass):
            means.append(model[1].running_mean.clone())
    moved = [not torch.equal(one, other) for one, other in pairwise(means)]
    assert moved == expected
    assert model[1].num_batches_tracked == 1


def test_recomputed_activations_do_not_move_the_statistics_again():
    moved = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        model = build_model(ModelConfig(name="timm/test_resnet"), 5).train()
        model.backbone.set_grad_checkpointing(checkpoints)
        views = {
            name: View(torch.rand(4, 3, 64, 64), torch.zeros(4, dtype=torch.long))
            for name in ("clean", "mixed")
        }
        step_gradient(model, views, active_terms(objective(regmixup=1)), concatenate=False)
        moved.append([buffer.clone() for layer in batchnorm_layers(model) for buffer in layer.buffers()])
    torch.testing.assert_close(moved[1], moved[0])


def test_losses_are_per_sample():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    views = {"clean": View(torch.rand(6, 3, 2, 2), torch.zeros(6, dtype=torch.long))}
    (((term, losses),),) = compute_losses(model, views, active_terms(objective()))
    assert term.name == "cross_entropy"
    assert losses.shape == (6,)


def tiny_transformer():
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="timm/vit_tiny_patch16_dinov3_qkvb"), 5, 32)
    return model.train()


def step_gradient(model, views, terms, concatenate):
    model.zero_grad()
    losses = {}
    for together in compute_losses(model, views, terms, concatenate=concatenate):
        torch.stack([term.weight * per_sample.mean() for term, per_sample in together]).sum().backward()
        losses |= {term.name: per_sample.detach() for term, per_sample in together}
    return losses, torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("rat", [0, 0.5])
def test_concatenated_views_equal_separate_ones(rat):
    model = tiny_transformer()
    labels = torch.randint(5, (6,))
    views = {name: View(torch.rand(6, 3, 32, 32), labels) for name in ("clean", "pixmix")}
    views["mixed"] = View(torch.rand(6, 3, 32, 32), torch.rand(6, 5).softmax(1))
    terms = active_terms(objective(regmixup=0.7, regpixmix=1, rat=rat))
    (separate, wanted), (together, got) = (step_gradient(model, views, terms, c) for c in (False, True))
    assert list(together) == list(separate)
    for name, losses in separate.items():
        torch.testing.assert_close(together[name], losses, rtol=1e-5, atol=1e-5)
    assert (got - wanted).norm() / wanted.norm() <= 1e-5


def test_views_are_concatenated_where_nothing_looks_across_the_batch():
    resnet = build_model(ModelConfig(width=4), 5)
    assert concatenates_views("auto", tiny_transformer())
    assert not concatenates_views("auto", resnet)
    with pytest.raises(ValueError, match="train.concatenate_views"):
        concatenates_views(True, resnet)
    frozen = build_model(ModelConfig(width=4, freeze_batchnorm=True), 5).train()
    assert concatenates_views(True, frozen)
