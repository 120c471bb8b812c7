"""An evaluation in a few lines for a terminal: images, accuracy, what decides, and whether a risk is held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtk.config.data import GROUPS
from rtk.metrics import proportion_interval
from rtk.report.verdict import image_counts

DECIDED_ON = ("validation", "test", *(f"test_and_{group}" for group in GROUPS))


def evaluation_lines(result: Mapping[str, Any], counts: Mapping[str, int]) -> list[str]:
    """What is measured on, and how often the model is right.

    Args:
        result: of `evaluate_run`.
        counts: images by name of the set.
    """
    accuracy = result["summary"]["accuracy"]
    ends = result.get("intervals", {}).get("summary", {}).get("accuracy")
    return [
        image_counts(result, counts),
        f"accuracy: {_share(accuracy, counts['test'], ends)} (with 95 % interval)",
        f"confidence: {result['confidence']}, OOD score: {result['ood_score']}",
    ]


def decision_lines(decision: Mapping[str, Any], confidence: str, ood_score: str) -> list[str]:
    """The rule, what it reaches, and whether the wanted risk is held on images that it was not chosen on.

    Args:
        decision: of `evaluate_run`.
        confidence: name of the score that says whether a prediction is right.
        ood_score: name of the score that says whether an image is of a known kind.
    """
    wanted = decision["risk"]
    if not decision["reached"]:
        return [f"no thresholds reach a risk of {wanted:.2%} on the validation images: no decision rule"]
    rule = f"{confidence} >= {decision['tau_id']:.6g} and {ood_score} >= {decision['tau_ood']:.6g}"
    lines = [f"decision rule for a risk of {wanted:.2%}: accept where {rule}"]
    for name in DECIDED_ON:
        if name in decision:
            lines.append(f"  {name.replace('_', ' ')}: {_outcome(decision[name], wanted)}")
    return lines


def _outcome(reached: Mapping[str, Any], wanted: float) -> str:
    coverage = f"{reached['images']:,} images, coverage {reached['coverage']:.2%}"
    risk = reached["risk"]
    if risk is None:
        return f"{coverage}, none accepted"
    accepted = round(reached["accept"] * reached["images"])
    text = f"{coverage}, risk {_share(risk, accepted)} of {accepted:,} accepted"
    return f"{text}: NOT HELD, above {wanted:.2%}" if risk > wanted else text


def _share(share: float, count: int, ends: Any = None) -> str:
    """A share of images with its 95 % interval: the given one, or Wilson's."""
    low, high = ends or proportion_interval(round(share * count), count)
    return f"{share:.2%} [{low:.2%}, {high:.2%}]"
