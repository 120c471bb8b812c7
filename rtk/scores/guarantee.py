"""Thresholds with a guarantee: the risk of the accepted ID images is held on images not yet seen.

A fifth of the calibration images, drawn once, proposes what to try (tau_OOD, and a descending sequence of
tau_ID from the most promising one on); the others test it. So the thresholds are fixed before the test, and
its p-values are exact (`rtk.metrics.risk_control`).

`ltt` (Learn-then-Test, arXiv 2110.01052) promises: with the wanted confidence over the draw of the
calibration images, at most the share `risk` of all ID images that the rule will ever accept is wrong. Where a
bound on accepted OOD images is wanted, a pair must pass both tests, so both hold at once.

`crc` (conformal risk control, arXiv 2208.02814) promises an expectation. It is exact for losses that fall as
a threshold rises, such as "accepted and wrong"; the share of wrong images among the accepted does not. The
rule here is the largest coverage at which (wrong + 1) <= risk (accepted + 1): one more accepted wrong image.
Of a new image, exchangeable with these n, it holds exactly that P(accepted and wrong) <= risk P(accepted by
the largest coverage at which wrong <= risk accepted among all n + 1): where the rule accepts it and it is
wrong, that one does too, and that one treats all n + 1 alike. The two acceptances differ by what one wrong
image moves, which vanishes as n grows; up to that factor, large only where few images are accepted, the
ratio is `risk` at most, averaged over calibrations. Of one calibration's own rule it says nothing: that may
be above the risk half of the time.

Both take calibration images and those to come as drawn alike: images that chose the checkpoint, or the
parameters of a score, are so only nearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rtk.metrics._checks import BoolArray, FloatArray, IntArray
from rtk.metrics.risk_control import binomial_p_value, fixed_sequence, holm, images_needed
from rtk.scores.threshold_search import ScoredImages, best_tau_id, by_confidence, choose_thresholds

Method = Literal["ltt", "crc"]
PROPOSING = 5  # one in so many images proposes thresholds
# Shares of ID images that each tau_OOD keeps where several are tried.
KEPT = (1.0, 0.99, 0.975, 0.95, 0.9, 0.8)
EVIDENCE = 0.7  # of the largest log p-value proposed: a sequence begins where so much is reached
STEPS = {"fixed_sequence": 250, "holm": 20}  # values of tau_ID: only holm pays for each
LOWER = (0.05, 0.3, 1.0)  # beyond the smallest confidence seen, in ranges of those seen: so all are accepted


@dataclass(frozen=True)
class Goal:
    """What is promised.

    Attributes:
        risk: largest share of wrong images among the accepted ID images.
        level: 1 - confidence; `crc` has no use for it.
        method: see above.
        id_coverage: share of ID images that tau_OOD keeps where no OOD images say more.
        ood_acceptance: largest share of OOD images like the validation ones that is accepted; None: any.
        procedure: of `ltt`: one sequence of tau_ID for each tau_OOD, or every pair of a coarse grid.
        p_value: of losses, number of images and risk; the losses are 0 or 1.
    """

    risk: float
    level: float = 0.05
    method: Method = "ltt"
    id_coverage: float = 0.95
    ood_acceptance: float | None = None
    procedure: Literal["fixed_sequence", "holm"] = "fixed_sequence"
    p_value: Callable[[ArrayLike, ArrayLike, float], FloatArray] = binomial_p_value


@dataclass(frozen=True)
class Choice:
    """Thresholds that hold a goal.

    Attributes:
        tau_ood: of all images.
        tau_id: (1,), or by predicted class (C,); inf where none holds it, and none is accepted.
        tested: the images that it was tested on.
        needed: estimate of the calibration images with which one would hold it, for the (classes of) images
            that have none; None where all have one, or no number helps.
    """

    tau_ood: float
    tau_id: FloatArray
    tested: ScoredImages
    needed: int | None

    @property
    def reached(self) -> bool:
        """Whether any images may be accepted."""
        return bool(np.isfinite(self.tau_id).any())

    def tau_of(self, predicted: IntArray) -> FloatArray:
        """Threshold of the confidence of each image (N,), by its predicted class (N,)."""
        return self.tau_id[predicted if self.tau_id.size > 1 else np.zeros_like(predicted)]


@dataclass(frozen=True)
class _Counts:
    """What T thresholds of the confidence accept at one of the OOD score: (T,) images of each kind."""

    accepted: IntArray
    wrong: IntArray
    ood: IntArray


def choose(images: ScoredImages, goal: Goal, classes: int = 1, seed: int = 0) -> Choice:
    """Thresholds of the largest coverage that hold the goal.

    Args:
        images: calibration images; with `predicted` where there are several classes.
        goal: what is promised.
        classes: 1: the risk is that of all accepted images. C: it is held for the images of every predicted
            class by a threshold of its own, for all of them at once with the wanted confidence (level / C
            each); a class that cannot be held accepts none.
        seed: of the draw of the images that propose.

    Raises:
        ValueError: several classes, but images without them, or a bound on OOD images.
    """
    proposing, tested = split(images, seed)
    rows = _tau_oods(proposing, goal)
    if classes > 1 and (images.predicted is None or len(rows) > 1):
        raise ValueError("classes: got several, wanted images that say which, and no bound on OOD images")
    own = replace(goal, level=goal.level / classes)
    found = [
        _best(_of_class(proposing, c, classes), _of_class(tested, c, classes), rows, own)
        for c in range(classes)
    ]
    tau_ood, tau_id = found[0][0], np.array([tau for _, tau in found])
    lacking = [c for c in range(classes) if np.isinf(tau_id[c])]
    needed = [_needed(images, _of_class(images, c, classes), tau_ood, own, len(rows)) for c in lacking]
    known = [number for number in needed if number is not None]
    return Choice(tau_ood, tau_id, tested, max(known) if known and len(known) == len(needed) else None)


def split(images: ScoredImages, seed: int = 0) -> tuple[ScoredImages, ScoredImages]:
    """The images that propose thresholds, and those that test them."""
    proposes = _proposes(images, seed)
    return images.only(proposes), images.only(~proposes)


def _proposes(images: ScoredImages, seed: int) -> BoolArray:
    """One in `PROPOSING` of the ID and of the OOD images, drawn apart."""
    chosen = np.zeros(images.is_id.size, bool)
    for number, kind in enumerate((images.is_id, ~images.is_id)):
        rows = np.random.default_rng([seed, number]).permutation(np.flatnonzero(kind))
        chosen[rows[: len(rows) // PROPOSING]] = True
    return chosen


def _of_class(images: ScoredImages, number: int, classes: int) -> ScoredImages:
    """The images of a predicted class; all, where there is but one."""
    if classes == 1:
        return images
    return images.only(np.asarray(images.predicted) == number)


def _tau_oods(proposing: ScoredImages, goal: Goal) -> FloatArray:
    """OOD thresholds to try: several where they must also hold a bound on OOD images, else one."""
    familiar = proposing.ood_score[proposing.is_id]
    if not familiar.size:
        return np.array([np.inf])
    if goal.ood_acceptance is not None:
        return np.unique(np.quantile(familiar, [1 - share for share in KEPT], method="lower"))
    if not proposing.is_id.all():
        thresholds = choose_thresholds(proposing, goal.risk)
        if thresholds is not None:
            return np.array([thresholds[1]])
    return np.quantile(familiar, [1 - goal.id_coverage], method="lower")


def _best(
    proposing: ScoredImages, tested: ScoredImages, tau_oods: FloatArray, goal: Goal
) -> tuple[float, float]:
    """tau_OOD and tau_ID of the largest coverage of the tested images; (_, inf) where none hold the goal."""
    if goal.method == "crc":
        known = by_confidence(tested.only(tested.is_id))
        return float(tau_oods[0]), best_tau_id(known, tau_oods[0], goal.risk, extra=1)[1]
    paths = [_path(proposing, tau_ood, goal) for tau_ood in tau_oods]
    counts = [_count(tested, tau, path) for tau, path in zip(tau_oods, paths, strict=True)]
    ood_images = int((~tested.is_id).sum())
    passed = _passed([_p_values(one, ood_images, goal) for one in counts], goal)
    best, accepted = (float(tau_oods[0]), np.inf), 0
    for tau_ood, path, one, good in zip(tau_oods, paths, counts, passed, strict=True):
        covered = np.where(good, one.accepted, 0)
        if covered.size and covered.max() > accepted:
            accepted, best = int(covered.max()), (float(tau_ood), float(path[covered.argmax()]))
    return best


def _path(proposing: ScoredImages, tau_ood: float, goal: Goal) -> FloatArray:
    """Descending tau_ID to try (T,).

    A sequence begins at the largest that should pass nearly as clearly as any, by the proposing images: a
    failure of the first is the end, and the way to larger coverages costs nothing.
    """
    known = proposing.confidence[proposing.is_id & (proposing.ood_score >= tau_ood)]
    if not known.size:
        return np.empty(0)
    low, high = float(known.min()), float(known.max())
    lower = low - (high - low) * np.array(LOWER)
    path = np.unique(np.append(np.quantile(known, np.linspace(0, 1, STEPS[goal.procedure])), lower))[::-1]
    if goal.procedure == "holm":
        return path
    ratio, seen = PROPOSING - 1, _count(proposing, tau_ood, path)
    expected = _Counts(ratio * seen.accepted, ratio * seen.wrong, ratio * seen.ood)
    values = _p_values(expected, ratio * int((~proposing.is_id).sum()), goal)
    evidence = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    return path[(evidence <= EVIDENCE * evidence.min()).argmax() :]


def _count(images: ScoredImages, tau_ood: float, tau_ids: FloatArray) -> _Counts:
    """What descending thresholds of the confidence accept."""
    familiar = images.ood_score >= tau_ood
    kinds = (images.is_id, images.is_id & ~images.is_correct, ~images.is_id)
    reached = [np.sort(-images.confidence[familiar & kind]) for kind in kinds]
    return _Counts(*(np.searchsorted(one, -tau_ids, side="right") for one in reached))


def _p_values(counts: _Counts, ood_images: int, goal: Goal) -> FloatArray:
    """Of "the risk, or the share of OOD images accepted, is above what is wanted": the larger of the two."""
    values = goal.p_value(counts.wrong, counts.accepted, goal.risk)
    if goal.ood_acceptance is None:
        return values
    return np.maximum(values, binomial_p_value(counts.ood, ood_images, goal.ood_acceptance))


def _passed(p_values: list[FloatArray], goal: Goal) -> list[BoolArray]:
    """Which pairs pass, by tau_OOD, so that any does so wrongly with probability `level` at most."""
    sizes = np.cumsum([values.size for values in p_values])[:-1]
    if goal.procedure == "holm":
        return list(np.split(holm(np.concatenate(p_values), goal.level), sizes))
    level = goal.level / len(p_values)
    return [np.arange(values.size) < fixed_sequence(values, level) for values in p_values]


def _needed(every: ScoredImages, images: ScoredImages, tau_ood: float, goal: Goal, tried: int) -> int | None:
    """Estimate of the calibration images of all kinds with which these would have a threshold."""
    known, total = int(images.is_id.sum()), int(every.is_id.sum())
    if goal.ood_acceptance is not None:
        return None  # which of the two tests lacks images is not told apart
    counts = _count(images, tau_ood, np.unique(images.confidence[images.is_id])[::-1])
    if goal.method == "crc":  # wrong + 1 <= risk (accepted + 1), were the shares to stay as they are
        gap = goal.risk * counts.accepted - counts.wrong
        number = known * (1 - goal.risk) / gap.max() if (gap > 0).any() else None
    else:
        number = images_needed(counts.wrong, counts.accepted, known, goal.risk, goal.level / tried)
    if number is None:
        return None
    tests = PROPOSING / (PROPOSING - 1)
    return max(total + 1, int(np.ceil(number * tests * total / known)))
