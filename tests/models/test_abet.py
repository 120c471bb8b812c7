"""AbeT's head against the values recorded from its authors' code."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.global_batchnorm import use_global_batch
from rtk.models.heads import AbetHead
from rtk.scores.table import SCORES


@pytest.fixture
def recorded(golden):
    """Recorded values, and the head that they are of; its weights are called h there."""
    data = golden("losses_more")
    head = AbetHead(10, 6)
    names = {name: f"abet_net__{name.replace('.', '_')}" for name in head.state_dict()}
    names["weight"] = "abet_net__h_weight"
    head.load_state_dict({name: torch.from_numpy(data[key]) for name, key in names.items()})
    return data, head


def test_training_equals_the_recorded_one(recorded):
    data, head = recorded
    features = torch.from_numpy(data["abet__features_train_batch"]).requires_grad_()
    logits = head.train()(features)
    loss = cross_entropy(logits, torch.from_numpy(data["abet__y"]))
    loss.backward()
    found = {
        "train_logits": logits.detach(),
        "train_ce_loss": loss.item(),
        "grad_features": features.grad,
        "grad__h_weight": head.weight.grad,
        "bn_running_mean_var_after": torch.cat([*head.temperature[1].buffers()][:2]),
    }
    for name, parameter in head.temperature.named_parameters():
        found[f"grad__temperature_{name.replace('.', '_')}"] = parameter.grad
    for name, value in found.items():
        np.testing.assert_allclose(value, data[f"abet__{name}"], rtol=0, atol=1e-4, err_msg=name)


@torch.no_grad()
def test_logits_and_the_score_equal_the_recorded_ones(recorded):
    """Recorded after the training batch."""
    data, head = recorded
    head.train()(torch.from_numpy(data["abet__features_train_batch"]))
    features = torch.from_numpy(data["abet__features_eval"])
    logits = head.eval()(features)
    np.testing.assert_allclose(logits, data["abet__plain__logits"], rtol=0, atol=1e-4)
    temperature = (head.temperature(features).sigmoid() + 1e-12).squeeze(1)
    np.testing.assert_allclose(temperature, data["abet__eval_temperature"], rtol=0, atol=1e-4)
    used = head.used_features(features)
    score = SCORES["abet"].score(logits)
    np.testing.assert_allclose(score, data["abet__plain__ablated_energy_score"], rtol=0, atol=1e-4)
    weight, bias = head.used_weights()
    torch.testing.assert_close(used @ weight.T + bias, logits)


def test_a_forward_pass_moves_its_statistics_once():
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=2, head="abet", reject_class=True), 4).train()
    images = torch.rand(5, 3, 32, 32)
    assert model(images).shape == (5, 5)
    assert int(model.head.temperature[1].num_batches_tracked) == 1
    logits, features = model.eval().forward_features(images)
    weight, bias = model.head.used_weights()
    assert logits.shape == (5, 4)
    torch.testing.assert_close(features @ weight.T + bias, logits)


def test_its_batchnorm_can_be_that_of_the_global_batch():
    torch.manual_seed(0)
    plain, shared = AbetHead(10, 6).train(), AbetHead(10, 6).train()
    shared.load_state_dict(plain.state_dict())
    use_global_batch(shared)
    features = torch.randn(5, 10)
    torch.testing.assert_close(shared(features), plain(features))
    for mine, its in zip(shared.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, its)
