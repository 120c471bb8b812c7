"""Joint rules: monotone, never worse than the rectangle by much, better where the best region is a slope."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest

from rtk.metrics import bootstrap_difference, ood_aurc
from rtk.scores.decision import DecisionRule, decide_as_described
from rtk.scores.joint_fit import _FITS, _best_path, _isotonic, cross_validated, fit_joint_rule
from rtk.scores.joint_rule import RULES, JointRule
from rtk.scores.threshold_search import combine
from tests.scores.test_decision import RULE


def sloped(images: int, seed: int):
    """Wrong and OOD images mix smoothly with right ones along both scores: the best region is a slope."""
    generator = np.random.default_rng(seed)
    sure, familiar = generator.normal(0, 1, (2, images))
    right = generator.random(images) < 1 / (1 + np.exp(-1 - 1.5 * sure))
    other, strange = generator.normal(0, 1, images), generator.normal(-1.3, 1, images)
    return combine(sure, familiar, right, other, strange)


def cornered(images: int, seed: int):
    """The smaller of both scores says whether an image is right: the best region is a rectangle."""
    generator = np.random.default_rng(seed)
    sure, familiar = generator.random((2, images))
    right = generator.random(images) < np.minimum(sure, familiar) ** 0.5
    return combine(sure, familiar, right, *generator.random((2, images // 20)))


def strata(rule, images):
    score = rule.score(images.confidence, images.ood_score)
    return (score[images.is_id], images.is_correct[images.is_id]), (score[~images.is_id],)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("images", [sloped(400, 0), cornered(400, 1)])
def test_every_rule_rises_in_both_scores(rule, images):
    fitted = _FITS[rule](images)
    sure, familiar = (
        np.linspace(v.min() - 1, v.max() + 1, 40) for v in (images.confidence, images.ood_score)
    )
    table = fitted.score(*(axis.ravel() for axis in np.meshgrid(sure, familiar, indexing="ij"))).reshape(
        40, 40
    )
    assert (np.diff(table, axis=0) >= -1e-9).all()
    assert (np.diff(table, axis=1) >= -1e-9).all()
    assert table[-1, -1] > table[0, 0]


def test_where_the_best_region_is_a_slope_the_linear_rule_is_better():
    fit, test = sloped(3000, 2), sloped(6000, 3)
    rules = {name: fit_joint_rule(fit, name) for name in RULES}
    assert [rules[name].rule for name in RULES] == list(RULES)
    for name in ("linear", "monotone"):
        change = bootstrap_difference(
            ood_aurc, strata(rules["rectangle"], test), strata(rules[name], test), resamples=100
        )
        assert change.high < 0


def test_at_its_worst_the_linear_rule_is_the_rectangle():
    fit = cornered(1500, 4)
    assert cross_validated(fit, "linear") > cross_validated(fit, "rectangle")
    assert fit_joint_rule(fit, "linear") == fit_joint_rule(fit, "rectangle")
    for seed in range(5):  # whatever the images: never worse than it by the validation images
        images = (sloped, cornered)[seed % 2](300, seed)
        chosen = fit_joint_rule(images, "linear").rule
        assert chosen == min(("rectangle", "linear"), key=lambda rule: cross_validated(images, rule))


def test_the_path_is_the_best_of_all_monotone_ones():
    generator = np.random.default_rng(0)
    risk = generator.random((4, 3))
    coverage = np.minimum.outer(np.linspace(1, 0.1, 4), np.linspace(1, 0.2, 3))

    def area(path):
        steps = [*pairwise(path)]
        return sum(risk[a] * (coverage[a] - coverage[b]) for a, b in steps) + risk[3, 2] * coverage[3, 2]

    def paths(i, j):
        if (i, j) == (3, 2):
            return [[(3, 2)]]
        onward = [(a, b) for a, b in ((i + 1, j), (i, j + 1)) if a < 4 and b < 3]
        return [[(i, j), *rest] for step in onward for rest in paths(*step)]

    found = list(zip(*(steps.tolist() for steps in _best_path(risk, coverage)), strict=True))
    assert area(found) == pytest.approx(min(map(area, paths(0, 0))))


def test_the_rectangle_s_score_is_a_pair_of_thresholds():
    images = cornered(500, 5)
    rule = _FITS["rectangle"](images)
    accepted = rule.score(images.confidence, images.ood_score) >= 12.0
    low = images.confidence[accepted].min(), images.ood_score[accepted].min()
    both = (images.confidence >= low[0]) & (images.ood_score >= low[1])
    np.testing.assert_array_equal(accepted, both)


def test_a_table_that_rises_is_kept_and_another_becomes_the_nearest():
    table = np.add.outer([0.0, 1.0, 2.0], [0.0, 0.5])
    np.testing.assert_allclose(_isotonic(table, np.ones((3, 2))), table)
    np.testing.assert_allclose(_isotonic(np.array([[1.0, 0.0]]), np.array([[1.0, 3.0]])), [[0.25, 0.25]])


def test_decisions_of_a_joint_rule_say_what_an_image_lacks():
    joint = JointRule("linear", [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [])
    rule = replace(DecisionRule(**RULE), joint=joint, tau_id=1.5, tau_ood=0.0)
    decisions = rule.decide([0.9, 0.9, 0.2, 0.2], [0.7, 0.1, 0.9, 0.1], [0, 0, 0, 0])
    assert decisions.tolist() == ["accept", "unfamiliar", "likely-wrong", "unfamiliar"]
    described = {"joint": asdict(joint), "tau_id": 1.5, "tau_ood": 0.0}
    again = decide_as_described(described, [0.9, 0.9, 0.2, 0.2], [0.7, 0.1, 0.9, 0.1], [0, 0, 0, 0])
    assert again.tolist() == decisions.tolist()
    table = JointRule("monotone", [0.0, 2.0], [0.0, 1.0], [], [], [[0.0, 1.0], [2.0, 4.0]])
    assert table.score([1.0, 5.0, 0.5], [0.5, 2.0, 0.0]).tolist() == [1.75, 4.0, 0.5]


def test_a_joint_rule_is_saved_with_the_decision(tmp_path):
    joint = _FITS["monotone"](sloped(300, 6))
    rule = replace(DecisionRule(**RULE), joint=joint)
    rule.save(tmp_path / "decision.json", {})
    assert DecisionRule.load(tmp_path / "decision.json") == rule


@pytest.mark.parametrize(
    "changed",
    [
        {"ood_values": [0.0]},
        {"confidence": [1.0, 0.0]},
        {"confidence_values": [0.0, np.nan]},
        {"rule": "monotone"},
        {"rule": "monotone", "table": [[0.0], [1.0, 2.0]]},
    ],
)
def test_what_is_no_function_of_two_scores_is_refused(changed):
    whole = {"rule": "linear", "confidence": [0.0, 1.0], "ood_score": [0.0, 1.0], "table": []}
    whole |= {"confidence_values": [0.0, 1.0], "ood_values": [0.0, 1.0]}
    JointRule(**whole)
    with pytest.raises(ValueError, match="joint: got"):
        JointRule(**whole | changed)


@pytest.mark.parametrize("rule", RULES)
def test_few_or_equal_images_have_a_rule_too(rule):
    few = fit_joint_rule(combine([0.5], [1.0], [True], [0.4, 0.9], [0.0, 2.0]), rule)
    assert few.rule == "rectangle"
    equal = combine(np.full(40, 0.5), np.ones(40), np.arange(40) % 2 == 0, np.full(40, 0.5), np.ones(40))
    for fitted in (few, fit_joint_rule(equal, rule), _FITS[rule](equal)):
        assert np.isfinite(fitted.score([-9.0, 0.5, 9.0], [-9.0, 1.0, 9.0])).all()


def test_rules_want_images_of_both_kinds():
    with pytest.raises(ValueError, match="wanted both"):
        fit_joint_rule(combine([0.5, 0.6], [1.0, 2.0], [True, False]), "linear")
    with pytest.raises(ValueError, match="rule"):
        fit_joint_rule(sloped(50, 0), "curved")
