"""AbeT with ReAct and DICE: against its authors' code, and against float64 calculations of the formulas."""

import numpy as np
import pytest
import torch

from rtk.models.heads import AbetHead
from rtk.scores import FitData, Predictions, compute_score
from rtk.scores.abet import abet_dice, abet_react, fit_abet_dice


def energy(logits):
    top = logits.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def abet():
    """A head in evaluation mode, and features before it: of training, of validation, to be scored."""
    torch.manual_seed(0)
    head = AbetHead(16, 7)
    head.train()(torch.randn(64, 16))
    return head.eval(), [torch.randn(count, 16) + 0.3 for count in (200, 90, 50)]


@torch.no_grad()
def said(head, features):
    return Predictions(head(features), head.used_features(features), torch.arange(len(features)) % 7)


@torch.no_grad()
def fit_data(head, train, validation):
    return FitData(said(head, train), said(head, validation), *head.used_weights())


@torch.no_grad()
def plain_parts(head, features):
    """Directions (N, D), temperatures (N, 1) and unit weight rows (C, D) of the head's parameters."""
    wide = head.double()
    temperature = wide.temperature(features.double()).sigmoid().numpy()
    weight = wide.weight.numpy()
    head.float()
    return unit(features.double().numpy()), temperature, unit(weight)


def test_the_score_is_the_energy_of_the_cosines_over_the_temperature(abet):
    head, (_, _, seen) = abet
    direction, temperature, weight = plain_parts(head, seen)
    expected = energy(direction @ weight.T / temperature)
    np.testing.assert_allclose(compute_score("abet", said(head, seen)), expected, rtol=2e-4)


@pytest.mark.parametrize("percentile", [85, 99])
def test_react_clips_directions_and_keeps_the_temperature(abet, percentile):
    head, (train, validation, seen) = abet
    threshold = np.percentile(plain_parts(head, validation)[0], percentile)
    direction, temperature, weight = plain_parts(head, seen)
    expected = energy(unit(np.minimum(direction, threshold)) @ weight.T / temperature)
    fit = fit_data(head, train, validation)
    found = compute_score("abet_react", said(head, seen), fit, percentile=percentile)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.mark.parametrize("percentile", [10, 90])
def test_dice_leaves_out_weights_by_the_size_of_their_mean_contribution(abet, percentile):
    head, (train, validation, seen) = abet
    direction, temperature, weight = plain_parts(head, seen)
    contribution = np.abs(plain_parts(head, train)[0].mean(axis=0) * weight)
    kept = weight * (contribution > np.percentile(contribution, percentile))
    length = np.linalg.norm(kept, axis=1, keepdims=True)
    expected = energy(direction @ (kept / np.where(length, length, 1)).T / temperature)
    fit = fit_data(head, train, validation)
    found = compute_score("abet_dice", said(head, seen), fit, percentile=percentile)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


@pytest.fixture
def recorded(golden):
    """Recorded values, the raw features, what the head says of them, and the head's weights and lengths."""
    data = golden("losses_more")
    raw, rows = (
        torch.from_numpy(data[key]).double() for key in ("abet__features_eval", "abet_net__h_weight")
    )
    temperature = torch.from_numpy(data["abet__eval_temperature"]).double().unsqueeze(1)
    used = raw / (raw.norm(dim=1, keepdim=True) + 1e-4) / temperature
    return data, raw, Predictions(torch.from_numpy(data["abet__plain__logits"]), used), rows


def test_react_equals_the_recorded_one_under_its_threshold(recorded):
    """The recorded threshold is of features that have their lengths."""
    data, raw, seen, rows = recorded
    threshold = float(data["hp_abet_react_threshold"]) / raw.norm(dim=1, keepdim=True)
    head = {"weight": rows / rows.norm(dim=1, keepdim=True), "bias": torch.zeros(6)}
    found = abet_react(seen, {**head, "threshold": threshold})
    np.testing.assert_allclose(found, data["abet__react__ablated_energy_score"], rtol=0, atol=1e-3)


def test_dice_equals_the_recorded_one_at_its_mean(recorded):
    """Recorded are the mean of features of any length, and weights chosen before rows were scaled."""
    data, _, seen, rows = recorded
    mean = torch.from_numpy(data["abet__features_train_batch"]).double().mean(dim=0, keepdim=True)
    train = Predictions(torch.zeros(1, 6), mean, torch.zeros(1, dtype=torch.int64))
    fit = FitData(train, train, rows, torch.zeros(6))
    tensors = fit_abet_dice(fit, percentile=data["hp_abet_dice_percentile"])
    tensors["weight"] /= rows.norm(dim=1, keepdim=True)
    found = abet_dice(seen, tensors)
    np.testing.assert_allclose(found, data["abet__dice__ablated_energy_score"], rtol=0, atol=1e-3)
