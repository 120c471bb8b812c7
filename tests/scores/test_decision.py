"""The decision rule: thresholds for a wanted risk, against a search over every pair, and the decisions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rtk.config import ConfigError
from rtk.metrics.prediction_sets import SetRule
from rtk.scores.decision import DecisionRule, Guarantee, decide, outcome
from rtk.scores.threshold_search import choose_thresholds, combine


def images(seed: int, known: int, unseen: int, ties: bool = False):
    generator = np.random.default_rng(seed)
    correct = generator.random(known) < 0.7
    confidence = np.where(correct, 0.7, 0.4) + 0.2 * generator.standard_normal(known)
    parts = [confidence, 1 + generator.standard_normal(known), correct]
    parts += [generator.random(unseen), generator.standard_normal(unseen) - 0.5]
    if ties:
        parts = [part if part.dtype == bool else part.round(1) for part in parts]
    return combine(*parts)


def largest_coverage(scored, risk: float) -> int:
    """ID images accepted, over every pair of thresholds there is."""
    best = 0
    for tau_ood, tau_id in itertools.product(np.unique(scored.ood_score), np.unique(scored.confidence)):
        accepted = (scored.ood_score >= tau_ood) & (scored.confidence >= tau_id)
        if accepted.any() and (accepted & ~scored.is_correct).sum() <= risk * accepted.sum():
            best = max(best, int((accepted & scored.is_id).sum()))
    return best


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("risk", [0.05, 0.15, 0.3])
def test_thresholds_have_the_largest_coverage_of_all_pairs(risk, ties):
    scored = images(1, known=60, unseen=40, ties=ties)
    thresholds = choose_thresholds(scored, risk)
    wanted = largest_coverage(scored, risk)
    assert wanted > 0
    assert thresholds is not None
    reached = outcome(scored, *thresholds)
    assert reached["risk"] <= risk
    assert round(reached["coverage"] * 60) == wanted


def test_without_ood_images_the_ood_threshold_keeps_the_stated_coverage():
    scored = images(2, known=1000, unseen=0)
    thresholds = choose_thresholds(scored, risk=0.9, id_coverage=0.8)
    assert thresholds is not None
    assert (scored.ood_score >= thresholds[1]).mean() == pytest.approx(0.8, abs=0.002)
    assert outcome(scored, *thresholds)["coverage"] == pytest.approx(0.8, abs=0.002)


def test_many_images_lose_little_by_the_limit_on_thresholds_tried():
    scored = images(3, known=3000, unseen=1000)
    thresholds = choose_thresholds(scored, 0.1)
    assert thresholds is not None
    subset = images(3, known=3000, unseen=1000)
    best = max(
        int((a & subset.is_id).sum())
        for tau_ood in np.unique(subset.ood_score[subset.is_id])[::5]
        for a in [_accepted_at_risk(subset, tau_ood, 0.1)]
    )
    assert outcome(scored, *thresholds)["coverage"] >= best / 3000 - 0.005


def _accepted_at_risk(scored, tau_ood: float, risk: float) -> np.ndarray:
    order = np.argsort(-scored.confidence)
    inside = order[scored.ood_score[order] >= tau_ood]
    share = np.cumsum(~scored.is_correct[inside]) / np.arange(1, inside.size + 1)
    good = np.flatnonzero(share <= risk)
    accepted = np.zeros(scored.confidence.size, bool)
    accepted[inside[: good[-1] + 1 if good.size else 0]] = True
    return accepted


def test_a_risk_out_of_reach_gives_no_thresholds():
    assert choose_thresholds(combine([0.9, 0.8], [1, 1], [False, False]), 0.1) is None
    # The most confident image is an OOD one: accepting the right image means accepting both.
    assert choose_thresholds(combine([0.5], [1.0], [True], [0.9], [2.0]), 0.4) is None


def test_decisions_and_outcome_by_hand():
    confidence, ood_score = [0.9, 0.2, 0.9, 0.2, 0.5], [5, 5, 1, 1, 3]
    decisions = decide(confidence, ood_score, tau_id=0.5, tau_ood=3)
    assert decisions.tolist() == ["accept", "likely-wrong", "unfamiliar", "unfamiliar", "accept"]
    scored = combine(confidence[:4], ood_score[:4], [True, False, True, True], [0.5], [3])
    assert outcome(scored, 0.5, 3) == {
        "coverage": 0.25,
        "risk": 0.5,
        "images": 5,
        "accept": 0.4,
        "likely-wrong": 0.2,
        "unfamiliar": 0.4,
    }
    assert outcome(scored, 2.0, 3)["risk"] is None


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        decide([np.nan], [1.0], 0, 0)
    with pytest.raises(ValueError, match="shape"):
        decide([1.0, 2.0], [1.0], 0, 0)


RULE = {
    **{"confidence": "msp", "ood_score": "knn", "tau_id": 0.5, "tau_ood": -0.3, "risk": 0.02, "step": 7},
    **{"chosen_on": "100 images", "hyperparameters": {"msp": {}, "knn": {"k": 10}}},
}


def test_rule_is_saved_and_read_back(tmp_path):
    rule = DecisionRule(**RULE)
    rule.save(tmp_path / "decision.json", {"test": {"risk": 0.01}})
    assert DecisionRule.load(tmp_path / "decision.json") == rule
    with pytest.raises(ConfigError, match="rtk evaluate RUN --risk"):
        DecisionRule.load(tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match="no decision rule"):
        DecisionRule.load(tmp_path / "other.json")


def test_a_promise_is_saved_with_the_rule(tmp_path):
    guarantee = Guarantee("ltt", 0.95, 800, "f00", 400, 0.12)
    rule = DecisionRule(
        **RULE, tau_by_class=[0.5, None], guarantee=guarantee, sets=SetRule("aps", 0.9, 0.97, 120)
    )
    rule.save(tmp_path / "decision.json", {})
    assert DecisionRule.load(tmp_path / "decision.json") == rule
    assert rule.promise() == (
        "with 95.0% confidence, of the accepted images of each predicted class, if of known classes, at most "
        "2.00% are wrong (Learn-then-Test on 800 images); as surely, taken by itself, of OOD images at most "
        "12.00% are accepted, but only if they are mixed as the 400 that this rests on"
    )
    expected = replace(rule, guarantee=Guarantee("crc", None, 800, "f00"), tau_by_class=None)
    assert expected.promise().startswith(
        "in expectation over calibrations, without a confidence for this one"
    )
    assert expected.promise().endswith("correction accepts (conformal risk control on 800 images)")
    assert DecisionRule(**RULE).promise() == (
        "no guarantee: thresholds chosen for a risk of 2.00% on 100 images"
    )


def test_each_predicted_class_has_its_own_threshold():
    rule = DecisionRule(**RULE, tau_by_class=[0.5, None, 0.8])
    decisions = rule.decide([0.6, 0.99, 0.6, 0.9, 0.9], [0, 0, 0, 0, -1], [0, 1, 2, 2, 2])
    assert decisions.tolist() == ["accept", "likely-wrong", "likely-wrong", "accept", "unfamiliar"]


def test_a_rule_that_would_accept_everything_is_refused(tmp_path):
    path = tmp_path / "decision.json"
    for changed in ({"tau_id": float("nan")}, {"tau_ood": float("nan")}, {"tau_id": "high"}):
        DecisionRule(**{**RULE, **changed}).save(path, {})
        with pytest.raises(
            ConfigError, match=r"decision.json: (got a threshold that is NaN|no decision rule)"
        ):
            DecisionRule.load(path)
