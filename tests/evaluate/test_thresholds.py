"""Thresholds for a wanted risk by every method: what is said where they hold, and where none do."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.config import ConfigError
from rtk.config.load import load_config
from rtk.evaluate.thresholds import thresholds_for
from rtk.scores.decision import Guarantee
from tests.scores.test_guarantee import KNOWN, OTHERS, POOL, drawn
from tests.scores.test_joint_rule import sloped


def settings(*overrides: str):
    given = ["data.validation_ood=others.parquet", *(f"evaluate.{text}" for text in overrides)]
    return load_config("digits_ce", given).evaluate


def test_without_confidence_nothing_is_promised():
    found = thresholds_for(settings("risk=0.1"), drawn(0), 4, "hash")
    assert found.reached
    assert found.guarantee is None
    assert found.details == {}


def test_with_confidence_the_promise_has_its_price_and_its_calibration():
    found = thresholds_for(settings("risk=0.1", "guarantee.confidence=0.9"), drawn(0, 1000), 4, "hash")
    assert found.guarantee == Guarantee("ltt", 0.9, 800, "hash")
    assert 0.2 < found.details["coverage"] < found.details["coverage_without_guarantee"] < 0.75
    assert found.details["coverage"] == found.outcome(drawn(0, 1000))["coverage"]


def test_ood_images_give_a_bound_of_what_is_accepted_of_such():
    wanted = settings("risk=0.1", "guarantee.confidence=0.9")
    found = thresholds_for(wanted, drawn(0, 1000, 500), 4, "hash")
    bound = found.guarantee.ood_bound
    accepted = (POOL.confidence >= found.tau_id) & (POOL.ood_score >= found.tau_ood)
    assert accepted[OTHERS].mean() < bound < 0.2
    assert found.guarantee.ood_images == 400
    held = settings("risk=0.1", "guarantee.confidence=0.9", "guarantee.ood_acceptance=0.03")
    stricter = thresholds_for(held, drawn(0, 1000, 500), 4, "hash")
    assert stricter.guarantee.ood_bound == 0.03
    assert stricter.details["coverage"] < found.details["coverage"]
    with pytest.raises(ConfigError, match="ood_acceptance: wanted data.validation_ood"):
        thresholds_for(held, drawn(0), 4, "hash")


def test_classes_have_thresholds_of_their_own_or_none():
    wanted = settings("risk=0.1", "guarantee.confidence=0.9", "guarantee.per_class=true")
    found = thresholds_for(wanted, drawn(1, 2500), 5, "hash")  # of the fifth there are no images
    assert found.by_class[4] is None
    assert found.details["classes_without"] == [4]
    assert found.tau_id == max(found.by_class[:4])
    decided = found.decide(POOL.only(KNOWN))
    for number in range(4):
        own = (decided == "accept") & (POOL.predicted[KNOWN] == number)
        assert own.any()
        assert POOL.confidence[KNOWN][own].min() >= found.by_class[number]
    one = thresholds_for(settings("risk=0.1", "guarantee.confidence=0.9"), drawn(1, 2500), 5, "hash")
    assert one.by_class is None


def test_expectations_have_no_confidence():
    wanted = settings("risk=0.1", "guarantee.confidence=0.9", "guarantee.method=crc")
    found = thresholds_for(wanted, drawn(0), 4, "hash")
    assert found.guarantee == Guarantee("crc", None, 480, "hash")


def test_no_thresholds_is_an_answer():
    wanted = settings("risk=0.05", "guarantee.confidence=0.95")
    few = thresholds_for(wanted, drawn(0, 100), 4, "hash")
    assert not few.reached
    assert few.details["needed"]["instead_of"] == 100
    assert few.details["needed"]["images"] > 100
    wrong = drawn(0, 100)
    wrong.is_correct[:] = False
    assert thresholds_for(wanted, wrong, 4, "hash").details["fewest"] == 59
    floor = settings("risk=0.1", "guarantee.floor=0.7")
    below = thresholds_for(floor, drawn(0), 4, "hash")
    assert not below.reached
    assert 0.4 < below.details["below_floor"] < 0.7
    assert thresholds_for(settings("risk=0.1", "guarantee.floor=0.3"), drawn(0), 4, "hash").reached


def test_a_joint_rule_is_taken_where_it_is_better():
    images = sloped(2000, 0)
    plain, joint = (
        thresholds_for(settings("risk=0.25", *more, "guarantee.floor=0.01"), images, 2, "hash")
        for more in ((), ("rule=linear",))
    )
    assert joint.joint.rule == "linear"
    accepted = [found.outcome(images)["coverage"] for found in (plain, joint)]
    assert accepted[1] > accepted[0]
    assert joint.outcome(images)["risk"] <= 0.25
    held = thresholds_for(
        settings("risk=0.2", "rule=linear", "guarantee.confidence=0.9", "guarantee.ood_acceptance=0.3"),
        sloped(2000, 0),
        2,
        "hash",
    )
    fresh = sloped(20_000, 9)
    reached = held.outcome(fresh.only(fresh.is_id))
    assert reached["risk"] <= 0.2
    assert held.outcome(fresh.only(~fresh.is_id))["accept"] <= 0.3
    with pytest.raises(ConfigError, match="evaluate.rule: got linear, wanted data.validation_ood"):
        thresholds_for(settings("risk=0.1", "rule=linear"), drawn(0), 4, "hash")


@pytest.mark.parametrize("override", ["guarantee.ood_acceptance=0.1", "rule=linear"])
def test_what_needs_ood_images_is_refused_without_them_before_anything_starts(override):
    overrides = ["risk=0.1", "guarantee.confidence=0.9", override]
    with pytest.raises(ConfigError, match=r"evaluate\..*: wanted data.validation_ood too"):
        load_config("digits_ce", ["data.validation_ood=null", *(f"evaluate.{text}" for text in overrides)])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["risk=0.1", "guarantee.method=ltt"], "wanted evaluate.guarantee.confidence too"),
        (["guarantee.confidence=0.9"], "evaluate.risk: got none"),
        (["risk=0", "guarantee.confidence=0.9"], "evaluate.risk: got none"),
        (["prediction_sets.method=aps"], "evaluate.risk: got none"),
        (["risk=0.1", "guarantee.confidence=1.0"], "evaluate.guarantee.confidence"),
        (["risk=0.1", "guarantee.per_class=true"], "per_class: got true with method empirical"),
        (
            ["risk=0.1", "guarantee.method=crc", "guarantee.ood_acceptance=0.1"],
            "ood_acceptance: wanted method ltt",
        ),
    ],
)
def test_promises_that_cannot_be_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message) as refused:
        settings(*overrides)
    assert "\n" not in str(refused.value).strip()


def test_equal_images_give_equal_thresholds():
    wanted = settings("risk=0.1", "guarantee.confidence=0.9")
    first, second = (thresholds_for(wanted, drawn(0), 4, "hash") for _ in range(2))
    assert (first.tau_id, first.tau_ood) == (second.tau_id, second.tau_ood)
    assert np.isfinite([first.tau_id, first.tau_ood]).all()
