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


def test_a_risk_out_of_reach_is_said():
    assert decision_lines({"risk": 0.01, "reached": False}, "msp", "knn") == [
        "no thresholds reach a risk of 1.00% on the validation images: no decision rule"
    ]
