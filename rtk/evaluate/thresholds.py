"""From calibration images to thresholds, with what they promise and what that costs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtk.config.errors import ConfigError
from rtk.config.schema import EvaluateConfig
from rtk.metrics.risk_control import fewest_accepted, upper_bound
from rtk.scores.decision import Guarantee, decide, decide_jointly, smallest_confidence, summary
from rtk.scores.guarantee import Choice, Goal, choose, split
from rtk.scores.joint_fit import fit_joint_rule
from rtk.scores.joint_rule import JointRule
from rtk.scores.threshold_search import ScoredImages, best_tau_id, by_confidence, choose_thresholds


@dataclass(frozen=True)
class Thresholds:
    """Thresholds, or that none do.

    Attributes:
        tau_id: of the confidence; by predicted class the largest; inf where nothing may be accepted.
        tau_ood: of the OOD score.
        by_class: of the confidence by predicted class, None where it accepts none; None: `tau_id` is of all.
        guarantee: None: nothing is promised.
        details: for `metrics.json`.
        joint: score that `tau_id` is a threshold of; None: there are two thresholds.
    """

    tau_id: float
    tau_ood: float
    by_class: list[float | None] | None = None
    guarantee: Guarantee | None = None
    details: dict[str, Any] = field(default_factory=dict)
    joint: JointRule | None = None

    @property
    def reached(self) -> bool:
        """Whether any image may be accepted."""
        return bool(np.isfinite(self.tau_id))

    def of_rule(self) -> dict[str, Any]:
        """Their part of a `DecisionRule`, by its attributes."""
        kept = {"tau_id": self.tau_id, "tau_ood": self.tau_ood, "tau_by_class": self.by_class}
        return kept | {"guarantee": self.guarantee, "joint": self.joint}

    def outcome(self, images: ScoredImages) -> dict[str, Any]:
        """What they do to images; these say which classes were predicted."""
        return summary(images, self.decide(images))

    def decide(self, images: ScoredImages) -> NDArray[np.str_]:
        """Decisions on images (N,); these say which classes were predicted."""
        if self.joint is not None:
            return decide_jointly(images.confidence, images.ood_score, self.joint, self.tau_id)
        predicted = () if images.predicted is None else images.predicted
        least = smallest_confidence(self.tau_id, self.by_class, predicted)
        return decide(images.confidence, images.ood_score, least, self.tau_ood)


NONE = Thresholds(np.inf, np.inf)


def thresholds_for(
    settings: EvaluateConfig, images: ScoredImages, classes: int, calibration: str
) -> Thresholds:
    """Thresholds for the wanted risk, by the wanted method.

    Args:
        settings: with a risk.
        images: to choose them on, with their predicted classes.
        classes: that the model knows.
        calibration: hash of these images.

    Raises:
        ConfigError: a bound on OOD images is wanted, and there are none to test it on.
    """
    wanted = settings.guarantee
    if wanted.ood_acceptance is not None and images.is_id.all():
        raise ConfigError("evaluate.guarantee.ood_acceptance: wanted data.validation_ood to test it on")
    joint, seen = _joint(settings, images)
    if wanted.chosen == "empirical":
        found = _empirical(settings, seen)
    else:
        found = _promised(settings, seen, classes, calibration)
    found = replace(found, joint=joint)
    covered = found.outcome(images.only(images.is_id))["coverage"] if found.reached else 0.0
    if found.reached and covered < wanted.floor:
        return replace(NONE, details={**found.details, "below_floor": covered})
    return found


def _joint(settings: EvaluateConfig, images: ScoredImages) -> tuple[JointRule | None, ScoredImages]:
    """The joint score, if one is wanted and better than a rectangle; the images with that as their only one.

    With a guarantee it is fitted to the images that propose alone, so that the others can test it.
    """
    if settings.rule == "rectangle":
        return None, images
    if images.is_id.all():
        raise ConfigError(f"evaluate.rule: got {settings.rule}, wanted data.validation_ood to fit it to")
    promised = settings.guarantee.chosen != "empirical"
    rule = fit_joint_rule(split(images)[0] if promised else images, settings.rule)
    if rule.rule == "rectangle":
        return None, images
    score = rule.score(images.confidence, images.ood_score)
    return rule, replace(images, confidence=score, ood_score=np.zeros_like(score))


def _empirical(settings: EvaluateConfig, images: ScoredImages) -> Thresholds:
    found = choose_thresholds(images, settings.risk or 0.0, settings.id_coverage)
    return Thresholds(*found) if found else NONE


def _promised(settings: EvaluateConfig, images: ScoredImages, classes: int, calibration: str) -> Thresholds:
    wanted, goal = settings.guarantee, _goal(settings)
    parts = classes if wanted.per_class else 1
    choice = choose(images, goal, parts)
    tested = int(choice.tested.is_id.sum())
    confidence = None if goal.method == "crc" else wanted.confidence
    details: dict[str, Any] = {"method": goal.method, "confidence": confidence, "calibrated_on": tested}
    if choice.needed is not None:
        details["needed"] = {"images": choice.needed, "instead_of": int(images.is_id.sum())}
    elif not choice.reached:
        details["fewest"] = fewest_accepted(goal.risk, goal.level / parts)
    if not choice.reached:
        return Thresholds(np.inf, np.inf, details=details)
    bound = _ood_bound(choice, goal)
    guarantee = Guarantee(goal.method, confidence, tested, calibration, **bound)
    taus = [float(tau) if np.isfinite(tau) else None for tau in choice.tau_id]
    tau_id = max(tau for tau in taus if tau is not None)
    found = Thresholds(tau_id, choice.tau_ood, taus if wanted.per_class else None, guarantee)
    if found.by_class is not None:
        details["classes_without"] = [number for number, tau in enumerate(taus) if tau is None]
    price = _price(found, images, goal.risk)
    return Thresholds(found.tau_id, found.tau_ood, found.by_class, guarantee, details | price | bound)


def _goal(settings: EvaluateConfig) -> Goal:
    wanted = settings.guarantee
    return Goal(
        risk=settings.risk or 0.0,
        level=1 - (wanted.confidence or 0.95),
        method="crc" if wanted.chosen == "crc" else "ltt",
        id_coverage=settings.id_coverage,
        ood_acceptance=wanted.ood_acceptance,
        procedure=wanted.procedure,
    )


def _ood_bound(choice: Choice, goal: Goal) -> dict[str, Any]:
    """How many OOD images tested the rule of `ltt`, and the share of such that it accepts at most.

    Where no bound was asked for, these took no part in the choice, and what is accepted of them gives one.
    """
    others = choice.tested.only(~choice.tested.is_id)
    if not others.is_id.size or goal.method == "crc":
        return {}
    if goal.ood_acceptance is not None:
        return {"ood_images": int(others.is_id.size), "ood_bound": goal.ood_acceptance}
    parts = np.zeros_like(others.is_id, np.int64) if others.predicted is None else others.predicted
    accepted = (others.ood_score >= choice.tau_ood) & (others.confidence >= choice.tau_of(parts))
    bound = upper_bound(int(accepted.sum()), accepted.size, goal.level)
    return {"ood_images": int(accepted.size), "ood_bound": bound}


def _price(found: Thresholds, images: ScoredImages, risk: float) -> dict[str, Any]:
    """Coverage of the ID images, and that of the empirical choice at the same OOD threshold."""
    known = images.only(images.is_id)
    accepted, _ = best_tau_id(by_confidence(known), found.tau_ood, risk)
    covered = found.outcome(known)["coverage"]
    return {"coverage": covered, "coverage_without_guarantee": accepted / known.is_id.size}
