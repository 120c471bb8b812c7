from __future__ import annotations

from rtk.report.evaluation_lines import decision_lines, evaluation_lines

RESULT = {
    "summary": {"accuracy": 0.9},
    "groups": {"digits89": "near", "photos": "far"},
    "confidence": "msp",
    "ood_score": "knn",
}
COUNTS = {"test": 1000, "digits89": 354, "photos": 20}


def reached(risk, accept=0.4, images=1000):
    return {"coverage": 0.5, "risk": risk, "images": images, "accept": accept}


def test_images_accuracy_and_what_decides_are_said():
    assert evaluation_lines(RESULT, COUNTS) == [
        "Images: test 1,000; near-OOD digits89 354; far-OOD photos 20.",
        "accuracy: 90.00% [87.98%, 91.71%] (with 95 % interval)",  # Wilson's, of 900 in 1,000
        "confidence: msp, OOD score: knn",
    ]


def test_a_bootstrap_s_interval_is_preferred():
    lines = evaluation_lines({**RESULT, "intervals": {"summary": {"accuracy": [0.85, 0.95]}}}, COUNTS)
    assert lines[1] == "accuracy: 90.00% [85.00%, 95.00%] (with 95 % interval)"


def test_a_risk_that_is_not_held_is_marked():
    decision = {
        **{"risk": 0.02, "reached": True, "tau_id": 0.75, "tau_ood": -3.25},
        "validation": reached(0.02),
        "test": reached(0.02),
        "test_and_near": reached(0.0225),
        "test_and_far": reached(None, accept=0.0),
    }
    lines = decision_lines(decision, "msp", "knn")
    assert lines[0] == "decision rule for a risk of 2.00%: accept where msp >= 0.75 and knn >= -3.25"
    assert lines[2] == "  test: 1,000 images, coverage 50.00%, risk 2.00% [1.02%, 3.90%] of 400 accepted"
    assert lines[3].endswith("risk 2.25% [1.19%, 4.22%] of 400 accepted: NOT HELD, above 2.00%")
    assert lines[4] == "  test and far: 1,000 images, coverage 50.00%, none accepted"
    assert sum("NOT HELD" in line for line in lines) == 1


def test_what_is_promised_and_what_it_costs_is_said():
    decision = {
        **{
            "risk": 0.02,
            "reached": True,
            "tau_id": 0.75,
            "tau_ood": -3.25,
            "promise": "with 95.0% confidence",
        },
        **{"coverage": 0.4, "coverage_without_guarantee": 0.5, "tau_by_class": [0.75, None]},
        **{"classes_without": [1], "needed": {"images": 900, "instead_of": 100}},
        "sets": {"method": "aps", "coverage": 0.9, "limit": 0.99, "images": 80, "test_images": 7}
        | {"test_coverage": 0.92, "test_size": 2.52},
        "test": reached(0.01),
    }
    lines = decision_lines(decision, "msp", "knn")
    assert lines[0].endswith("accept where msp >= the threshold of its class and knn >= -3.25")
    assert lines[1].startswith("  promised: with 95.0% confidence; images to come must be like")
    assert "40.00% of the validation images accepted, in place of 50.00%" in lines[2]
    assert lines[3] == "  1 of 2 classes accept nothing, with about 900 validation images all would"
    assert lines[4].endswith("on 7 such test images 92.00%, 2.5 classes on average")
    decision["sets"]["limit"] = None
    assert decision_lines(decision, "msp", "knn")[4].endswith("too few, every set is all classes")


def test_why_no_thresholds_hold_a_risk_is_said():
    unreached = {"risk": 0.02, "reached": False, "method": "ltt", "confidence": 0.95, "calibrated_on": 80}
    (line,) = decision_lines(unreached | {"needed": {"images": 900, "instead_of": 100}}, "msp", "knn")
    assert line == (
        "no thresholds hold a risk of 2.00% with 95.0% confidence, by 80 calibration images: no decision "
        "rule; about 900 validation images would, in place of 100"
    )
    (line,) = decision_lines(unreached | {"fewest": 149}, "msp", "knn")
    assert "it takes 149 accepted images without a wrong one" in line
    (line,) = decision_lines({"risk": 0.02, "reached": False, "below_floor": 0.3}, "msp", "knn")
    assert "accept 30.00% of the validation images, less than the floor" in line


def test_a_risk_out_of_reach_is_said():
    assert decision_lines({"risk": 0.01, "reached": False}, "msp", "knn") == [
        "no thresholds reach a risk of 1.00% on the validation images: no decision rule"
    ]
