"""An evaluation in a few lines for a terminal: images, accuracy, what decides, and whether a risk is held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtk.config.data import GROUPS
from rtk.metrics import proportion_interval
from rtk.report.verdict import image_counts

DECIDED_ON = ("validation", "calibration", "test", *(f"test_and_{group}" for group in GROUPS))


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
        return [unreached(decision)]
    least = "the threshold of its class" if "tau_by_class" in decision else f"{decision['tau_id']:.6g}"
    rule = f"{confidence} >= {least} and {ood_score} >= {decision['tau_ood']:.6g}"
    if "joint" in decision:
        rule = f"the {decision['joint']['rule']} score of {confidence} and {ood_score} >= {least}"
    lines = [f"decision rule for a risk of {wanted:.2%}: accept where {rule}", *promise_lines(decision)]
    for name in DECIDED_ON:
        if name in decision:
            lines.append(f"  {name.replace('_', ' ')}: {_outcome(decision[name], wanted)}")
    return lines


def rule_lines(result: Mapping[str, Any]) -> list[str]:
    """DS metrics of the joint rules, and how they differ from the rectangle's; none where not compared."""
    if "joint_rules" not in result:
        return []
    compared = result["joint_rules"]
    kind = chosen_on(result.get("decision", {}))
    lines = [f"joint rules, fitted on the {kind} images, one threshold along each:"]
    for group in GROUPS:
        for name, values in compared.get(group, {}).items():
            lines.append(f"  {group}, {name}: {_rule_words(values, compared['fitted'][name] != name, kind)}")
    return lines


def chosen_on(decision: Mapping[str, Any]) -> str:
    """Which images thresholds were chosen on: `validation` or `calibration`; older evaluations do not say."""
    return str(decision.get("set", "validation"))


def _rule_words(values: Mapping[str, Any], is_rectangle: bool, kind: str) -> str:
    words = [f"DS-F1 {100 * values['ds_f1']:.2f} %", f"DS-AURC {1000 * values['ds_aurc']:.2f} ‰"]
    for number, (key, factor) in enumerate((("ds_f1", 100), ("ds_aurc", 1000))):
        if "difference" in values:
            change = values["difference"][key]
            ends = [f"{factor * change[end]:+.2f}" for end in ("estimate", "low", "high")]
            words[number] += f" ({ends[0]} [{ends[1]}, {ends[2]}])"
    return ", ".join(words) + (f"; no better on the {kind} images: the rectangle" if is_rectangle else "")


def unreached(decision: Mapping[str, Any]) -> str:
    """Why there is no rule, and what would help."""
    wanted, kind = f"a risk of {decision['risk']:.2%}", chosen_on(decision)
    if "below_floor" in decision:
        accepted = f"accept {decision['below_floor']:.2%} of the {kind} images, less than the floor"
        return f"the thresholds for {wanted} {accepted}: no decision rule"
    if "method" not in decision:
        return f"no thresholds reach {wanted} on the {kind} images: no decision rule"
    if decision["confidence"] is not None:
        wanted += f" with {decision['confidence']:.1%} confidence"
    start = (
        f"no thresholds hold {wanted}, by {decision['calibrated_on']:,} calibration images: no decision rule"
    )
    if "needed" in decision:
        images, present = decision["needed"]["images"], decision["needed"]["instead_of"]
        return f"{start}; about {images:,} {kind} images would, in place of {present:,}"
    return (
        f"{start}; it takes {decision['fewest']:,} accepted images without a wrong one, and as images are "
        "scored now, more of them alone would not seem to help"
    )


def promise_lines(decision: Mapping[str, Any]) -> list[str]:
    """What a rule promises, what that costs, and what its sets of classes do; nothing where it has none."""
    lines = []
    if "promise" in decision:
        lines.append(f"  promised: {decision['promise']}; images to come must be like the calibration images")
        covered, without = decision["coverage"], decision["coverage_without_guarantee"]
        lines.append(
            f"  its price: {covered:.2%} of the {chosen_on(decision)} images accepted, in place of "
            f"{without:.2%} by thresholds that hold the risk on these images alone"
        )
    if decision.get("classes_without"):
        lacking = decision["classes_without"]
        lines.append(
            f"  {len(lacking)} of {len(decision['tau_by_class'])} classes accept nothing{_more(decision)}"
        )
    if "sets" in decision:
        lines.append(_sets(decision["sets"]))
    return lines


def _more(decision: Mapping[str, Any]) -> str:
    needed = decision.get("needed")
    return (
        "" if needed is None else f", with about {needed['images']:,} {chosen_on(decision)} images all would"
    )


def _sets(sets: Mapping[str, Any]) -> str:
    """Of the images that are likely wrong."""
    line = (
        f"  sets for likely-wrong images: {sets['method']}, the right class in {sets['coverage']:.0%} of "
        f"them (calibrated on {sets['images']:,})"
    )
    if sets["limit"] is None:
        return f"{line}: too few, every set is all classes"
    if "test_size" not in sets:
        return line
    return (
        f"{line}; on {sets['test_images']:,} such test images {sets['test_coverage']:.2%}, "
        f"{sets['test_size']:.1f} classes on average"
    )


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
