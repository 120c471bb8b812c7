"""Scores by how much an ensemble's members disagree, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtk.scores import FitData, Predictions, apply_score, compute_score, expand_scores, fit_score
from rtk.scores.storage import load_fitted, save_fitted
from rtk.scores.table import DISAGREEMENT_SCORES, SCORES

CLASSES, WIDTHS = 3, (4, 2, 5)
every_score = pytest.mark.parametrize("name", DISAGREEMENT_SCORES)


def ensemble(rows=50, scale=1.0, dtype=torch.float32):
    """Predictions of random linear members, what they are fitted on, and the members' logits (M, N, C)."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(rows, sum(WIDTHS), generator=draw).to(dtype) * scale
    members = tuple(
        (
            torch.randn(CLASSES, width, generator=draw).to(dtype),
            torch.randn(CLASSES, generator=draw).to(dtype),
        )
        for width in WIDTHS
    )
    parts = zip(features.split(WIDTHS, 1), members, strict=True)
    each = torch.stack([part @ weight.T + bias for part, (weight, bias) in parts])
    weight = torch.cat([weight for weight, _ in members], 1) / len(members)
    bias = torch.stack([bias for _, bias in members]).mean(0)
    data = Predictions(each.mean(0), features, torch.arange(rows) % CLASSES)
    return data, FitData(data, data, weight, bias, members), each


def test_values_are_those_of_the_definitions():
    data, fit, each = ensemble()
    p = each.double().softmax(2).numpy()
    mean = p.mean(0)
    information = -(mean * np.log(mean)).sum(1) + (p * np.log(p)).sum(2).mean(0)
    pairs = [(p[m] * np.log(p[m] / p[k])).sum(1) for m in range(3) for k in range(3) if m != k]
    votes = np.array([np.bincount(own, minlength=CLASSES).max() for own in p.argmax(2).T]) / 3
    found = {name: compute_score(name, data, fit).numpy() for name in DISAGREEMENT_SCORES}
    np.testing.assert_allclose(found["mutual_information"], -information, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["pairwise_kl"], -np.mean(pairs, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["vote_share"], votes, rtol=1e-6)
    assert len(set(votes)) > 1


@every_score
def test_members_that_agree_have_the_largest_score(name):
    weight, bias = torch.randn(CLASSES, 4), torch.randn(CLASSES)
    half = torch.randn(20, 4)
    features = torch.cat([half, half], 1)
    data = Predictions(half @ weight.T + bias, features, torch.arange(20) % CLASSES)
    fit = FitData(data, data, torch.cat([weight, weight], 1) / 2, bias, ((weight, bias), (weight, bias)))
    torch.testing.assert_close(compute_score(name, data, fit), torch.full((20,), float(name == "vote_share")))


@every_score
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4, 1e30])
def test_there_is_a_number_whatever_the_features(name, scale):
    data, fit, _ = ensemble(scale=scale)
    assert compute_score(name, data, fit).isfinite().all()


@every_score
def test_chunks_and_single_precision_change_nothing(name, monkeypatch):
    data, fit, _ = ensemble()
    found = compute_score(name, data, fit)
    double, double_fit, _ = ensemble(dtype=torch.float64)
    torch.testing.assert_close(compute_score(name, double, double_fit).float(), found, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr("rtk.scores.compute.CHUNK", 7)
    torch.testing.assert_close(compute_score(name, data, fit), found)


def test_fitted_members_can_be_saved(tmp_path):
    data, fit, _ = ensemble()
    states = {name: fit_score(name, fit) for name in DISAGREEMENT_SCORES}
    save_fitted(tmp_path / "scores.safetensors", states)
    for name, state in load_fitted(tmp_path / "scores.safetensors").items():
        assert torch.equal(apply_score(name, state, data), apply_score(name, states[name], data))


@every_score
def test_a_single_network_has_no_members(name):
    data, fit, _ = ensemble()
    with pytest.raises(ValueError, match="got one network, wanted an ensemble"):
        fit_score(name, FitData(data, data, fit.weight, fit.bias))
    assert name not in expand_scores(["all"])
    assert expand_scores(["disagreement"]) == DISAGREEMENT_SCORES
    assert SCORES[name].source


def test_members_whose_features_are_not_all_are_refused():
    data, fit, _ = ensemble()
    with pytest.raises(ValueError, match=r"members: got features of \[4, 2\], wanted 11 in sum"):
        FitData(data, data, fit.weight, fit.bias, fit.members[:2])
