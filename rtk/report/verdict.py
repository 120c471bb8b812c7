"""What an evaluation comes to, in a sentence or two: pure functions of its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rtk.config.data import GROUPS

LARGE_ECE = 0.05
HELPS = 0.5  # a temperature is named where it brings ECE below this share of what it was


class Verdict(NamedTuple):
    """A sentence, and whether what was asked for is kept on the test images; None: nothing was asked for."""

    text: str
    held: bool | None


def verdict(result: Mapping[str, Any]) -> Verdict:
    """What the decision rule of an evaluation does on the test images, alone and with OOD images present.

    Args:
        result: of `evaluate_run`.
    """
    decision = result.get("decision")
    if decision is None:
        right = _percent(result["summary"]["accuracy"])
        return Verdict(
            f"It is right on {right} of the test images. No risk was asked for: rtk evaluate RUN "
            "--risk 0.05 chooses thresholds that keep it at 5 %, and says how many images are then accepted.",
            None,
        )
    wanted = f"{100 * decision['risk']:g} %"
    if not decision["reached"]:
        return Verdict(
            f"No thresholds reach a risk of {wanted} on the {decision.get('set', 'validation')} images: "
            "nothing is accepted.",
            False,
        )
    test = decision["test"]
    if test["risk"] is None:
        return Verdict(f"At a wanted risk of {wanted} it accepts none of the test images.", False)
    parts = [
        f"at a wanted risk of {wanted} it accepts {_percent(test['coverage'])} of the test images, and "
        f"{_percent(test['risk'])} of these are wrong{_beyond(test['risk'], decision['risk'])}"
    ]
    risks = [test["risk"]]
    for group in GROUPS:
        reached = decision.get(f"test_and_{group}")
        if reached is not None:
            risks.append(reached["risk"])
            parts.append(
                f"with {group}-OOD images present the risk is {_percent(reached['risk'])}"
                f"{_beyond(reached['risk'], decision['risk'])}"
            )
    text = "; ".join(parts) + "."
    return Verdict(text[0].upper() + text[1:], max(risks) <= decision["risk"])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _beyond(risk: float, wanted: float) -> str:
    return f", above the wanted {100 * wanted:g} %" if risk > wanted else ""


def calibration_words(found: Mapping[str, Any]) -> str:
    """A word where ECE is large, and whether a temperature would mend it; else none.

    Args:
        found: `ece` and, where it was measured, `temperature` and `ece_at_temperature`.
    """
    error, mended = found["ece"], found.get("ece_at_temperature")
    if error < LARGE_ECE:
        return ""
    large = f"An ECE of {_percent(error)} is large: read these confidences as an order, not as probabilities."
    if mended is None:
        return large
    if mended > HELPS * error:
        return f"{large} A temperature does not mend it: the best leaves {_percent(mended)}."
    return (
        f"{large} A temperature of {found['temperature']:.3g}, fitted on validation images, brings it to "
        f"{_percent(mended)}: evaluate.confidence=temperature_scaling."
    )


def image_counts(result: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """Images of each set in words: the test set, then near and far sets.

    Args:
        result: of `evaluate_run`.
        counts: images by name of the set.
    """
    parts = [f"test {counts['test']:,}"]
    shifted = result.get("full_spectrum", {}).get("csid", {})
    if shifted:
        own = [f"{name} {result['measured_on'][name]['rows']:,}" for name in shifted]
        parts.append(f"under covariate shift {', '.join(own)}")
    for group in GROUPS:
        own = [f"{name} {counts[name]:,}" for name, kind in result["groups"].items() if kind == group]
        if own:
            parts.append(f"{group}-OOD {', '.join(own)}")
    skipped = [f"{count:,} of {name}" for name, count in result.get("skipped", {}).items()]
    left_out = f"; left out, as they cannot be decoded: {', '.join(skipped)}" if skipped else ""
    return f"Images: {'; '.join(parts)}{left_out}.{_fitted_on(result)}"


def _fitted_on(result: Mapping[str, Any]) -> str:
    """On how many images scores are fitted; evaluations from before do not say."""
    if "fitted_on" not in result:
        return ""
    train, validation = (result["fitted_on"][name] for name in ("train", "validation"))
    return f" Scores are fitted on {train:,} training and {validation:,} validation images."
