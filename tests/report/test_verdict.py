from __future__ import annotations

from rtk.report.verdict import calibration_words, image_counts, verdict


def decided(test: float | None, far: float | None = None) -> dict:
    decision = {"risk": 0.05, "reached": True, "test": {"coverage": 0.44, "risk": test}}
    if far is not None:
        decision["test_and_far"] = {"coverage": 0.44, "risk": far}
    return {"summary": {"accuracy": 0.9}, "decision": decision}


def test_what_the_rule_does_and_what_it_does_not_hold():
    text, held = verdict(decided(0.041, 0.118))
    assert text == (
        "At a wanted risk of 5 % it accepts 44.0 % of the test images, and 4.1 % of these are wrong; with "
        "far-OOD images present the risk is 11.8 %, above the wanted 5 %."
    )
    assert held is False
    text, held = verdict(decided(0.041, 0.049))
    assert held is True
    assert "above" not in text
    assert "6.0 % of these are wrong, above the wanted 5 %." in verdict(decided(0.06)).text


def test_without_a_rule():
    text, held = verdict({"summary": {"accuracy": 0.9}})
    assert "right on 90.0 % of the test images" in text
    assert "--risk" in text
    assert held is None
    refused = verdict({"summary": {}, "decision": {"risk": 0.005, "reached": False}})
    assert refused == (
        "No thresholds reach a risk of 0.5 % on the validation images: nothing is accepted.",
        False,
    )
    assert "accepts none" in verdict(decided(None)).text


def test_a_word_where_calibration_is_poor():
    assert calibration_words({"ece": 0.02}) == ""
    assert "ECE of 9.0 % is large" in calibration_words({"ece": 0.09})
    mended = calibration_words({"ece": 0.09, "temperature": 1.72, "ece_at_temperature": 0.012})
    assert "temperature of 1.72" in mended
    assert "brings it to 1.2 %" in mended
    left = calibration_words({"ece": 0.09, "temperature": 1.1, "ece_at_temperature": 0.08})
    assert "does not mend it: the best leaves 8.0 %" in left


def test_images_are_counted_by_set():
    result = {"groups": {"cats": "near", "noise": "far", "dogs": "near"}, "skipped": {"cats": 3}}
    counts = {"test": 1797, "cats": 60, "dogs": 20, "noise": 7}
    assert image_counts(result, counts) == (
        "Images: test 1,797; near-OOD cats 60, dogs 20; far-OOD noise 7; left out, as they cannot be "
        "decoded: 3 of cats."
    )
    fitted = {"fitted_on": {"train": 1_281_167, "validation": 50_000}}
    assert image_counts(result | fitted, counts).endswith(
        " 3 of cats. Scores are fitted on 1,281,167 training and 50,000 validation images."
    )
