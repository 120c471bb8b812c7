"""Several networks as one: what each says is what it said alone."""

from __future__ import annotations

import pytest
import torch

from rtk.config.ensemble import EnsembleConfig
from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.ensemble import build_ensemble, join_classifiers
from rtk.models.heads import combine_logits
from rtk.models.maps import forward_maps
from rtk.models.parts import forward_changed, last_stages
from rtk.scores import SCORES, compute_image_score
from rtk.scores.logits import energy
from rtk.scores.rankfeat import without_leading

CONFIGS = (
    ModelConfig(width=2),
    ModelConfig(width=3, head="cosine", mean=(0.1, 0.2, 0.3), std=(0.3, 0.2, 0.4)),
    ModelConfig(width=2, head="abet"),
    ModelConfig(width=2, standardise=0.5),
)
IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def members():
    torch.manual_seed(0)
    return [build_model(config, 4).eval() for config in CONFIGS]


@pytest.mark.parametrize("average", ["softmax", "logits"])
@torch.no_grad()
def test_an_ensemble_averages_what_its_members_say(members, average):
    joined = join_classifiers(members, average).eval()
    logits, features = joined.forward_features(IMAGES)
    each, own = zip(*(member.forward_features(IMAGES) for member in members), strict=True)
    torch.testing.assert_close(features, torch.cat(own, dim=1), rtol=0, atol=1e-6)
    torch.testing.assert_close(joined(IMAGES), logits)
    if average == "logits":
        torch.testing.assert_close(logits, torch.stack(each).mean(0), rtol=0, atol=1e-6)
    else:
        shares = torch.stack(each).double().softmax(2).mean(0)
        torch.testing.assert_close(logits.double().softmax(1), shares, rtol=0, atol=1e-6)
        energies = torch.stack([energy(one) for one in each]).mean(0)
        torch.testing.assert_close(energy(logits), energies, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_its_weights_are_those_of_the_mean_of_the_logits(members):
    joined = join_classifiers(members, "logits").eval()
    logits, features = joined.forward_features(IMAGES)
    weight, bias = joined.head.used_weights()
    torch.testing.assert_close(features @ weight.T + bias, logits, rtol=0, atol=1e-5)
    parts = features.split(joined.head.widths, dim=1)
    for member, part, (own, own_bias) in zip(members, parts, joined.head.member_weights(), strict=True):
        torch.testing.assert_close(part @ own.T + own_bias, member(IMAGES), rtol=0, atol=1e-5)


def test_the_mean_of_softmax_stands_values_that_exp_does_not():
    logits = torch.tensor([[[1000.0, 0.0], [-1e4, -1e4]], [[0.0, 1000.0], [-1e4, -1e4]]])
    combined = combine_logits(logits, "softmax")
    torch.testing.assert_close(combined.softmax(1), torch.full((2, 2), 0.5))
    assert combined.isfinite().all()


def test_a_config_builds_what_can_hold_the_weights(members):
    joined = join_classifiers(members)
    built = build_ensemble(EnsembleConfig(members=CONFIGS), 4)
    built.load_state_dict(joined.state_dict())
    torch.testing.assert_close(built.eval()(IMAGES), joined.eval()(IMAGES))


def test_all_members_have_maps(members):
    joined = join_classifiers(members[:2]).eval()
    alone = [forward_maps(member, IMAGES)[1] for member in members[:2]]
    assert len(forward_maps(joined, IMAGES)[1]) == sum(map(len, alone))


@pytest.mark.parametrize(
    "name", [name for name, row in SCORES.items() if row.inputs == "images" and not row.passes]
)
def test_scores_that_run_the_model_run_an_ensemble(members, name):
    joined = join_classifiers(members[:2]).eval().requires_grad_(False)
    scores = compute_image_score(name, joined, IMAGES)
    assert scores.shape == (5,)
    assert scores.isfinite().all()


def test_stages_of_all_members_are_changed(members):
    joined = join_classifiers(members[:2], "logits").eval()
    for stage in (0, 1):
        alone = [forward_changed(m, IMAGES, last_stages(m)[stage], without_leading) for m in members[:2]]
        found = forward_changed(joined, IMAGES, last_stages(joined)[stage], without_leading)
        torch.testing.assert_close(found, torch.stack(alone).mean(0), rtol=0, atol=1e-5)
