"""The rule of use: accept an image, call its prediction likely wrong, or call the image unfamiliar.

Two thresholds, chosen on validation images for a wanted risk: an image whose OOD score is below tau_OOD is
unfamiliar, one whose confidence is below tau_ID is likely wrong, the others are accepted (the double-scoring
rule of SURE+, arXiv 2603.03903). Risk is the share of accepted images that are wrong or of no known class.
Thresholds that promise something of images to come: `rtk.scores.guarantee`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError

from rtk.config.errors import ConfigError
from rtk.metrics.prediction_sets import SetRule
from rtk.runs.atomic import write_json
from rtk.scores.joint_rule import JointRule
from rtk.scores.threshold_search import ScoredImages

DECISION_FILE, DECISION_SCORES = "decision.json", "decision.safetensors"
ACCEPT, LIKELY_WRONG, UNFAMILIAR = "accept", "likely-wrong", "unfamiliar"
DECISIONS = (ACCEPT, LIKELY_WRONG, UNFAMILIAR)


@dataclass(frozen=True)
class Guarantee:
    """What thresholds promise beyond the images that they were chosen on (`rtk.scores.guarantee`).

    Attributes:
        method: `ltt` or `crc`.
        confidence: of the promise; None: it is one of an expectation.
        images: ID images that it rests on.
        calibration: SHA-256 of the sets and the number of images that it rests on.
        ood_images: OOD images that `ood_bound` rests on.
        ood_bound: largest share, with the confidence, that is accepted of OOD images mixed as these; None:
            there are none.
    """

    method: str
    confidence: float | None
    images: int
    calibration: str
    ood_images: int = 0
    ood_bound: float | None = None


@dataclass(frozen=True)
class DecisionRule:
    """Thresholds and what they are for; a file of a few lines.

    Attributes:
        confidence: score that says whether a prediction is right.
        ood_score: score that says whether the image is of a known kind.
        tau_id: smallest confidence that is accepted.
        tau_ood: smallest OOD score that is accepted.
        risk: wanted.
        chosen_on: in words, the images that the thresholds were chosen on.
        hyperparameters: of both scores, by score.
        step: of the checkpoint that the thresholds were chosen for; they mean nothing for another.
        made_from: hashes of the checkpoint, the predictions and the fitted scores that they were chosen for;
            empty where an older rtk did not write them down.
        tau_by_class: smallest confidence that is accepted, by predicted class, null where none is; `tau_id`
            is the largest of them. None: `tau_id` is that of every class.
        guarantee: None: the thresholds promise nothing.
        sets: of classes for images that are likely wrong; None: they get none.
        joint: a score of both, which `tau_id` is the threshold of; `tau_ood` has no use then. None: there is
            none.
    """

    confidence: str
    ood_score: str
    tau_id: float
    tau_ood: float
    risk: float
    chosen_on: str
    hyperparameters: dict[str, dict[str, Any]]
    step: int
    made_from: dict[str, str] = field(default_factory=dict)
    tau_by_class: list[float | None] | None = None
    guarantee: Guarantee | None = None
    sets: SetRule | None = None
    joint: JointRule | None = None

    def decide(self, confidence: ArrayLike, ood_score: ArrayLike, predicted: ArrayLike) -> NDArray[np.str_]:
        """Decide on N images by their scores (N,) and predicted classes (N,); see `decide`."""
        if self.joint is not None:
            return decide_jointly(confidence, ood_score, self.joint, self.tau_id)
        tau_id = smallest_confidence(self.tau_id, self.tau_by_class, predicted)
        return decide(confidence, ood_score, tau_id, self.tau_ood)

    def promise(self) -> str:
        """What may be relied on, in words."""
        if self.guarantee is None:
            return f"no guarantee: thresholds chosen for a risk of {self.risk:.2%} on {self.chosen_on}"
        return _promise(self.risk, self.guarantee, self.tau_by_class is not None)

    def save(self, path: Path, outcome: dict[str, Any]) -> None:
        """Write the rule, and beside it what it reached."""
        write_json(path, {**asdict(self), "outcome": outcome})

    @classmethod
    def load(cls, path: Path) -> DecisionRule:
        """Read a rule.

        Raises:
            ConfigError: the file is missing, or rtk did not write it.
        """
        try:
            known = _with_parts(json.loads(path.read_text(encoding="utf-8")))
            rule = TypeAdapter(cls).validate_python(known)
            if any(math.isnan(number) for number in (rule.tau_id, rule.tau_ood, rule.risk)):
                raise ConfigError(f"{path}: got a threshold that is NaN, which would accept every image")
            return rule
        except FileNotFoundError:
            raise ConfigError(f"{path}: not there, `rtk evaluate RUN --risk 0.02` writes it") from None
        except ValidationError as error:
            key = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConfigError(f"{path}: no decision rule ({key}: {error.errors()[0]['msg']})") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path}: no decision rule ({type(error).__name__}: {error})") from None


def _with_parts(known: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a rule from what JSON has; what an older rtk did not write keeps its default."""
    fields = DecisionRule.__dataclass_fields__
    given = {name: value for name, value in known.items() if name in fields}
    for name, kind in (("guarantee", Guarantee), ("sets", SetRule), ("joint", JointRule)):
        if given.get(name) is not None:
            given[name] = kind(**given[name])
    return given


def _promise(risk: float, given: Guarantee, by_class: bool) -> str:
    whose = " of each predicted class" if by_class else ""
    which = f"of the accepted images{whose}, if of known classes, at most {risk:.2%} are wrong"
    if given.confidence is None:
        return (
            f"in expectation over calibrations, without a confidence for this one: of images{whose} of known "
            f"classes those accepted though wrong are at most {risk:.2%} of what the same choice without its "
            f"correction accepts (conformal risk control on {given.images:,} images)"
        )
    words = f"with {given.confidence:.1%} confidence, {which} (Learn-then-Test on {given.images:,} images)"
    if given.ood_bound is not None:
        words += (
            f"; as surely, taken by itself, of OOD images at most {given.ood_bound:.2%} are accepted, but "
            f"only if they are mixed as the {given.ood_images:,} that this rests on"
        )
    return words


def smallest_confidence(
    tau_id: float, by_class: Sequence[float | None] | None, predicted: ArrayLike
) -> NDArray[np.float64]:
    """Smallest confidence that is accepted, of all images (), or of N by their predicted classes (N,).

    Args:
        tau_id: of all.
        by_class: by class, None where none is accepted; None: `tau_id` holds.
        predicted: (N,) classes.
    """
    if by_class is None:
        return np.asarray(tau_id, np.float64)
    return np.array([np.inf if tau is None else tau for tau in by_class])[np.asarray(predicted, np.int64)]


def decide(
    confidence: ArrayLike, ood_score: ArrayLike, tau_id: ArrayLike, tau_ood: float
) -> NDArray[np.str_]:
    """Decide on N images: `accept`, `likely-wrong` or `unfamiliar`, (N,).

    Args:
        confidence: (N,), larger = more trustworthy.
        ood_score: (N,), larger = more in-distribution.
        tau_id: smallest confidence that is accepted, of all images or of each (N,).
        tau_ood: smallest OOD score that is accepted.

    Raises:
        ValueError: different shapes, or a score that is NaN.
    """
    sure, familiar = np.asarray(confidence, np.float64), np.asarray(ood_score, np.float64)
    if sure.shape != familiar.shape:
        raise ValueError(f"ood_score: got shape {familiar.shape}, wanted {sure.shape} as confidence")
    if np.isnan(sure).any() or np.isnan(familiar).any():
        raise ValueError("confidence and ood_score: got NaN, wanted numbers")
    least = np.asarray(tau_id, np.float64)
    return np.where(familiar < tau_ood, UNFAMILIAR, np.where(sure < least, LIKELY_WRONG, ACCEPT))


def decide_as_described(
    rule: Mapping[str, Any], confidence: ArrayLike, ood_score: ArrayLike, predicted: ArrayLike
) -> NDArray[np.str_]:
    """Decide on N images by what `metrics.json` says of a rule; see `DecisionRule.decide`."""
    if "joint" in rule:
        return decide_jointly(confidence, ood_score, JointRule(**rule["joint"]), rule["tau_id"])
    least = smallest_confidence(rule["tau_id"], rule.get("tau_by_class"), predicted)
    return decide(confidence, ood_score, least, rule["tau_ood"])


def decide_jointly(
    confidence: ArrayLike, ood_score: ArrayLike, rule: JointRule, least: float
) -> NDArray[np.str_]:
    """Decide on N images, (N,): not accepted below `least`, unfamiliar where it is the OOD score they lack.

    Raises:
        ValueError: different shapes, or a score that is NaN.
    """
    decide(confidence, ood_score, 0.0, 0.0)  # the same scores are refused
    refused = np.where(rule.lacks_familiarity(confidence, ood_score), UNFAMILIAR, LIKELY_WRONG)
    return np.where(rule.score(confidence, ood_score) >= least, ACCEPT, refused)


def outcome(images: ScoredImages, tau_id: ArrayLike, tau_ood: float) -> dict[str, Any]:
    """What thresholds do to images; `tau_id` is that of all or of each.

    Returns:
        `coverage`, share of the ID images accepted; `risk`, share of the accepted images that are wrong or
        OOD, None where none is accepted; `images`; and the share that each decision gets of all images.
    """
    return summary(images, decide(images.confidence, images.ood_score, tau_id, tau_ood))


def summary(images: ScoredImages, decisions: NDArray[np.str_]) -> dict[str, Any]:
    """What decisions (N,) come to; see `outcome`."""
    accepted = decisions == ACCEPT
    shares = {name: float((decisions == name).mean()) for name in DECISIONS}
    id_images = int(images.is_id.sum())
    return {
        "coverage": float((accepted & images.is_id).sum() / id_images) if id_images else None,
        "risk": float((accepted & ~images.is_correct).sum() / accepted.sum()) if accepted.any() else None,
        "images": int(accepted.size),
        **shares,
    }
