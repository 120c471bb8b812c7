from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from rtk.metrics import (
    accuracy,
    augrc,
    aurc,
    coverage_at_risk,
    e_aurc,
    risk_at_coverage,
    risk_coverage,
    selective_classification,
)
from rtk.metrics.selective import AurcVariant

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ds_metrics.npz")
VARIANTS = get_args(AurcVariant)


def golden_case(case):
    return GOLDEN[f"{case}id_msp"], GOLDEN[f"{case}id_preds"] == GOLDEN[f"{case}id_labels"]


@pytest.mark.parametrize(
    ("variant", "key"),
    [("mean", "sureplus_valid_aurc_mean_risk"), ("trapezoid", "sureplus_id_aurc_trapz"), ("rat", "rat_aurc")],
)
def test_aurc_variants_match_their_references(variant, key):
    confidence, correct = golden_case("big__")
    assert aurc(confidence, correct, variant) == pytest.approx(float(GOLDEN[f"big__{key}"]), abs=1e-9)


def test_e_aurc_matches_sureplus():
    confidence, correct = golden_case("big__")
    expected = float(GOLDEN["big__sureplus_valid_eaurc"])
    assert e_aurc(confidence, correct, "mean") == pytest.approx(expected, abs=1e-9)


def test_aurc_with_ties_uses_a_stable_sort():
    confidence, correct = golden_case("small_ties__")
    expected = float(GOLDEN["small_ties__own_aurc_mean_risk_stable_order"])
    assert aurc(confidence, correct, "mean") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("variant", ["tie_aware", "trapezoid", "rat"])
def test_aurc_with_ties_lies_between_best_and_worst_order(variant):
    confidence, correct = golden_case("small_ties__")
    best, worst = (float(GOLDEN[f"small_ties__own_aurc_trapz_{end}_tie_order"]) for end in ("best", "worst"))
    assert best < aurc(confidence, correct, variant) < worst


def test_rat_with_ties_is_near_its_recorded_unstable_order():
    confidence, correct = golden_case("small_ties__")
    assert aurc(confidence, correct, "rat") == pytest.approx(float(GOLDEN["small_ties__rat_aurc"]), abs=1e-3)


def test_variants_agree_without_ties():
    confidence, correct = golden_case("big__")
    n = correct.size
    trapezoid = aurc(confidence, correct, "trapezoid")
    assert aurc(confidence, correct, "torch_uncertainty") == pytest.approx(trapezoid / (1 - 1 / n), abs=1e-12)
    first_risk = risk_coverage(confidence, correct).risk[0]
    assert aurc(confidence, correct) == pytest.approx(trapezoid + first_risk / n, abs=1e-12)


def test_risk_coverage_has_one_point_per_distinct_threshold():
    curve = risk_coverage([0.5, 0.9, 0.5, 0.9, 0.1], [True, True, False, False, True])
    np.testing.assert_array_equal(curve.threshold, [0.9, 0.5, 0.1])
    np.testing.assert_array_equal(curve.coverage, [0.4, 0.8, 1.0])
    np.testing.assert_array_equal(curve.risk, [0.5, 0.5, 0.4])


def test_areas_by_hand_without_ties():
    confidence, correct = [0.9, 0.8, 0.7, 0.6], [True, False, True, False]
    # Risks 0, 1/2, 1/3, 1/2 at coverages 1/4 ... 1.
    trapezoid = (0 / 2 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    assert aurc(confidence, correct, "mean") == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)
    for variant in ("trapezoid", "rat", "tie_aware"):
        assert aurc(confidence, correct, variant) == pytest.approx(trapezoid), variant
    assert aurc(confidence, correct, "torch_uncertainty") == pytest.approx(trapezoid / (3 / 4))
    perfect = 0.5 + 0.5 * np.log(0.5)
    assert e_aurc(confidence, correct, "mean") == pytest.approx(1 / 3 - perfect)
    # Generalised risks 0, 0, 1/4, 1/4, 1/2 at coverages 0 ... 1.
    assert augrc(confidence, correct) == pytest.approx((0 + 1 / 4 + 1 / 4 + 1 / 4) / 4)


def test_areas_by_hand_when_all_are_tied():
    confidence, correct = [1, 1, 1, 1], [False, True, True, True]
    assert aurc(confidence, correct) == 0.25
    assert augrc(confidence, correct) == 0.125
    # The stable order meets the error first: risks 1, 1/2, 1/3, 1/4.
    assert aurc(confidence, correct, "mean") == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    # One knot, after the error is removed first: risks 1/4, then 0 to the end.
    assert aurc(confidence, correct, "rat") == pytest.approx(0.25 * 0.25 / 2)


def test_only_tie_aware_ignores_the_order_of_the_data():
    rng = np.random.default_rng(0)
    confidence, correct = rng.integers(0, 4, 40) / 4, rng.random(40) < 0.7
    order = rng.permutation(40)
    assert aurc(confidence[order], correct[order]) == aurc(confidence, correct)
    assert augrc(confidence[order], correct[order]) == augrc(confidence, correct)
    assert aurc(confidence[order], correct[order], "mean") != aurc(confidence, correct, "mean")


@pytest.mark.parametrize("variant", VARIANTS)
def test_monotone_transform_changes_nothing(variant):
    confidence, correct = golden_case("big__")
    exact = confidence.astype(np.float64)
    assert aurc(np.log(exact), correct, variant) == aurc(exact, correct, variant)


def test_always_right_and_always_wrong():
    confidence = [0.1, 0.2, 0.3]
    assert (
        aurc(confidence, [True] * 3) == e_aurc(confidence, [True] * 3) == augrc(confidence, [True] * 3) == 0
    )
    assert aurc(confidence, [False] * 3) == pytest.approx(1)
    assert e_aurc(confidence, [False] * 3) == pytest.approx(0)


def test_single_sample():
    assert aurc([0.5], [False]) == aurc([0.5], [False], "mean") == 1
    # No width, no area.
    assert aurc([0.5], [False], "trapezoid") == aurc([0.5], [False], "rat") == 0
    with pytest.raises(ValueError, match="at least 2 for variant 'torch_uncertainty'"):
        aurc([0.5], [False], "torch_uncertainty")


def test_operating_points():
    confidence, correct = [0.9, 0.8, 0.7, 0.6], [True, False, True, False]
    assert coverage_at_risk(confidence, correct, 0.0) == 0.25
    assert coverage_at_risk(confidence, correct, 0.34) == 0.75
    assert coverage_at_risk(confidence, correct, 0.5) == 1
    assert coverage_at_risk(confidence, np.logical_not(correct), 0.1) == 0
    assert risk_at_coverage(confidence, correct, 0.25) == 0
    assert risk_at_coverage(confidence, correct, 0.3) == 0.5
    assert risk_at_coverage(confidence, correct, 1) == 0.5
    # Coverage 1/3 splits a tie group: the next reachable one is 2/3.
    assert risk_at_coverage([2, 2, 1], [True, False, True], 1 / 3) == 0.5


@pytest.mark.parametrize("metric", [risk_coverage, aurc, e_aurc, augrc])
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [True], "confidence: got an empty array"),
        ([0.5], [], "is_correct: got an empty array"),
        ([np.nan], [True], "confidence: got 1 NaN"),
        ([0.5, 0.6], [True], "confidence and is_correct: got different lengths"),
        ([0.5], [7], "is_correct: got int64 values other than 0 and 1"),
    ],
)
def test_bad_input_is_named(metric, confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        metric(confidence, correct)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="variant: got 'median', wanted one of 'tie_aware'"):
        aurc([0.5], [True], "median")
    with pytest.raises(ValueError, match="coverage: got 0, wanted"):
        risk_at_coverage([0.5], [True], 0)
    with pytest.raises(ValueError, match=r"risk: got 1\.5, wanted"):
        coverage_at_risk([0.5], [True], 1.5)


def test_accuracy_and_areas_from_one_sort():
    rng = np.random.default_rng(0)
    for levels, share in ((5, 0.3), (5, 0.9), (10**6, 0.7)):
        confidence, correct = rng.integers(0, levels, 300) / levels, rng.random(300) < share
        found = selective_classification(confidence, correct)
        assert found["accuracy"] == pytest.approx(accuracy(correct)) == pytest.approx(correct.mean())
        assert found["aurc"] == aurc(confidence, correct)
        assert found["e_aurc"] == pytest.approx(e_aurc(confidence, correct), abs=1e-15)
        assert found["augrc"] == augrc(confidence, correct)


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_counts_do_not_depend_on_which_kind_is_rarer(share):
    rng = np.random.default_rng(1)
    confidence, correct = rng.integers(0, 9, 200) / 9, rng.random(200) < share
    curve = risk_coverage(confidence, correct)
    for threshold, coverage, risk in zip(curve.threshold, curve.coverage, curve.risk, strict=True):
        accepted = confidence >= threshold
        assert coverage == accepted.mean()
        assert risk == pytest.approx((~correct[accepted]).mean(), abs=1e-15)
