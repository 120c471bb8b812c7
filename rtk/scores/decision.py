"""The rule of use: accept an image, call its prediction likely wrong, or call the image unfamiliar.

Two thresholds, chosen on validation images for a wanted risk: an image whose OOD score is below tau_OOD is
unfamiliar, one whose confidence is below tau_ID is likely wrong, the others are accepted (the double-scoring
rule of SURE+, arXiv 2603.03903). Risk is the share of accepted images that are wrong or of no known class.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtk.config.errors import ConfigError
from rtk.runs.atomic import write_json

DECISION_FILE, DECISION_SCORES = "decision.json", "decision.safetensors"
ACCEPT, LIKELY_WRONG, UNFAMILIAR = "accept", "likely-wrong", "unfamiliar"
DECISIONS = (ACCEPT, LIKELY_WRONG, UNFAMILIAR)
MAX_OOD_THRESHOLDS = 500  # tried: more move the coverage by less than 1 / 500


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
            known = {"made_from": {}, **json.loads(path.read_text(encoding="utf-8"))}
            rule = cls(**{name: known[name] for name in cls.__dataclass_fields__})
            if any(math.isnan(number) for number in (rule.tau_id, rule.tau_ood, rule.risk)):
                raise ConfigError(f"{path}: got a threshold that is NaN, which would accept every image")
            return rule
        except FileNotFoundError:
            raise ConfigError(f"{path}: not there, `rtk evaluate RUN --risk 0.02` writes it") from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: no decision rule ({type(error).__name__}: {error})") from None


@dataclass(frozen=True)
class ScoredImages:
    """Confidence and OOD score of N images and whether each is right; OOD images are never right.

    Attributes:
        confidence: (N,).
        ood_score: (N,).
        is_correct: (N,) booleans.
        is_id: (N,) booleans, in-distribution images.
    """

    confidence: NDArray[np.float64]
    ood_score: NDArray[np.float64]
    is_correct: NDArray[np.bool_]
    is_id: NDArray[np.bool_]


def decide(confidence: ArrayLike, ood_score: ArrayLike, tau_id: float, tau_ood: float) -> NDArray[np.str_]:
    """Decide on N images: `accept`, `likely-wrong` or `unfamiliar`, (N,).

    Args:
        confidence: (N,), larger = more trustworthy.
        ood_score: (N,), larger = more in-distribution.
        tau_id: smallest confidence that is accepted.
        tau_ood: smallest OOD score that is accepted.

    Raises:
        ValueError: different shapes, or a score that is NaN.
    """
    sure, familiar = np.asarray(confidence, np.float64), np.asarray(ood_score, np.float64)
    if sure.shape != familiar.shape:
        raise ValueError(f"ood_score: got shape {familiar.shape}, wanted {sure.shape} as confidence")
    if np.isnan(sure).any() or np.isnan(familiar).any():
        raise ValueError("confidence and ood_score: got NaN, wanted numbers")
    return np.where(familiar < tau_ood, UNFAMILIAR, np.where(sure < tau_id, LIKELY_WRONG, ACCEPT))


def combine(
    confidence: ArrayLike,
    ood_score: ArrayLike,
    is_correct: ArrayLike,
    ood_confidence: ArrayLike = (),
    ood_ood_score: ArrayLike = (),
) -> ScoredImages:
    """In-distribution images (N,), and where given OOD images (M,), as one set (N + M,)."""
    id_scores, ood_scores = np.asarray(confidence, np.float64), np.asarray(ood_confidence, np.float64)
    wrong = np.zeros(ood_scores.size, bool)
    return ScoredImages(
        np.append(id_scores, ood_scores),
        np.append(np.asarray(ood_score, np.float64), np.asarray(ood_ood_score, np.float64)),
        np.append(np.asarray(is_correct, bool), wrong),
        np.arange(id_scores.size + ood_scores.size) < id_scores.size,
    )


def choose_thresholds(
    images: ScoredImages, risk: float, id_coverage: float = 0.95
) -> tuple[float, float] | None:
    """Thresholds (tau_ID, tau_OOD) of the largest coverage whose risk on these images is at most `risk`.

    With OOD images among them both thresholds are searched; without, tau_OOD keeps `id_coverage` of the
    images and tau_ID alone is searched. The risk is that of the images' own mixture of ID and OOD.

    Args:
        images: validation images.
        risk: wanted share of wrong images among the accepted.
        id_coverage: see above.

    Returns:
        None where no pair of thresholds that accepts an ID image reaches the risk.
    """
    id_scores = images.ood_score[images.is_id]
    if images.is_id.all():
        candidates = np.quantile(id_scores, [1 - id_coverage], method="lower")
    else:
        distinct = np.unique(id_scores)
        places = np.linspace(0, distinct.size - 1, min(distinct.size, MAX_OOD_THRESHOLDS)).astype(int)
        candidates = distinct[places]
    ordered = _by_confidence(images)
    options = [(*_best_tau_id(ordered, tau_ood, risk), float(tau_ood)) for tau_ood in candidates]
    accepted, tau_id, tau_ood = max(options)
    return (tau_id, tau_ood) if accepted else None


def outcome(images: ScoredImages, tau_id: float, tau_ood: float) -> dict[str, Any]:
    """What thresholds do to images.

    Returns:
        `coverage`, share of the ID images accepted; `risk`, share of the accepted images that are wrong or
        OOD, None where none is accepted; `images`; and the share that each decision gets of all images.
    """
    decisions = decide(images.confidence, images.ood_score, tau_id, tau_ood)
    accepted = decisions == ACCEPT
    shares = {name: float((decisions == name).mean()) for name in DECISIONS}
    id_images = int(images.is_id.sum())
    return {
        "coverage": float((accepted & images.is_id).sum() / id_images) if id_images else None,
        "risk": float((accepted & ~images.is_correct).sum() / accepted.sum()) if accepted.any() else None,
        "images": int(accepted.size),
        **shares,
    }


def _by_confidence(images: ScoredImages) -> ScoredImages:
    order = np.argsort(-images.confidence, kind="stable")
    return ScoredImages(
        images.confidence[order], images.ood_score[order], images.is_correct[order], images.is_id[order]
    )


def _best_tau_id(ordered: ScoredImages, tau_ood: float, risk: float) -> tuple[int, float]:
    """ID images accepted, and tau_ID, of the largest coverage at one tau_OOD; (0, inf) where none will do."""
    familiar = ordered.ood_score >= tau_ood
    confidence = ordered.confidence[familiar]
    if not confidence.size:
        return 0, np.inf
    accepted = np.arange(1, confidence.size + 1)
    wrong = np.cumsum(~ordered.is_correct[familiar])
    id_images = np.cumsum(ordered.is_id[familiar])
    # Equal confidences are accepted together: only the last of them is a threshold.
    last = np.append(confidence[1:] != confidence[:-1], True)
    good = np.flatnonzero(last & (wrong <= risk * accepted) & (id_images > 0))
    if not good.size:
        return 0, np.inf
    return int(id_images[good[-1]]), float(confidence[good[-1]])
