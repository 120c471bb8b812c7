"""Hyper-parameters of scores: fixed, or tuned on validation images, never on those that are measured.

- `fixed`: the defaults of each score, from its paper or OpenOOD.
- `aps`: OpenOOD's automatic parameter search (arXiv 2306.09301): of a score's grid, the values with the best
  AUROC of validation ID against validation OOD images.
- `rat_splits`: RAT's protocol (arXiv 2503.14783): 20 % of the test images, drawn anew for each of 3 splits,
  fit and tune the scores by AURC; the other 80 % are measured. Temperatures are those of its code; scores
  that it does not tune have OpenOOD's grids. Scores that run the model are tuned where
  `evaluate.search_images` has computed them with all of its temperatures and steps of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtk.config.schema import RunConfig
from rtk.metrics import aurc, ood_detection
from rtk.scores import FitData, FittedScore, Predictions, apply_score, fit_score, get_score
from rtk.scores.selection import given_hyperparameters
from rtk.scores.variants import combinations, with_given

SPLITS = 3
SPLIT_FRACTION = 0.2

# How good a fitted score is, larger = better.
Criterion = Callable[[str, FittedScore], float]
# Hyper-parameters to try for a score; none to take its defaults.
Grid = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class TunedScores:
    """Fitted scores, and how their hyper-parameters were found.

    Attributes:
        states: fitted scores, by name.
        tried: for each tuned score the values tried, each with its `criterion`; empty where fixed.
    """

    states: dict[str, FittedScore]
    tried: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Hyper-parameters of every score that has any, and what was tried."""
        chosen = {name: dict(state.hyperparameters) for name, state in self.states.items()}
        return {"hyperparameters": {name: values for name, values in chosen.items() if values}} | (
            {"tried": self.tried} if self.tried else {}
        )


def fixed_scores(config: RunConfig, names: Iterable[str], fit: FitData) -> TunedScores:
    """Scores with the hyper-parameters that the config gives, or their defaults."""
    return TunedScores({name: fit_score(name, fit, **_fixed(config, name, fit)) for name in names})


def tuned_scores(
    config: RunConfig, names: Iterable[str], fit: FitData, criterion: Criterion, grid: Grid
) -> TunedScores:
    """Scores with those values of their grids that have the largest criterion; the first among equals."""
    found = TunedScores({})
    for name in names:
        given = given_hyperparameters(config.evaluate).get(name, {})
        possible = [values for values in with_given(grid(name), given) if _fits(values, fit)]
        if not possible:
            found.states[name] = fit_score(name, fit, **_fixed(config, name, fit))
            continue
        found.states[name], found.tried[name] = _best_of(name, possible, fit, criterion)
    return found


def _best_of(
    name: str, possible: list[dict[str, Any]], fit: FitData, criterion: Criterion
) -> tuple[FittedScore, list[dict[str, Any]]]:
    """The best state and what each has reached; no more than two are in memory at a time."""
    best, tried = None, []
    for values in possible:
        state = fit_score(name, fit, **values)
        reached = criterion(name, state)
        if best is None or reached > max(row["criterion"] for row in tried):
            best = state
        tried.append({**values, "criterion": reached})
    assert best is not None
    return best, tried


def openood_grid(name: str) -> list[dict[str, Any]]:
    """Every combination of the values that the automatic search tries; empty where there is none.

    Scores of images are not searched: each combination would run the model on every image again.
    """
    score = get_score(name)
    return [] if score.inputs == "images" else combinations(score.search)


def rat_grid(name: str, images: bool) -> list[dict[str, Any]]:
    """The values that RAT's code tries; OpenOOD's where it does not tune the score.

    Args:
        name: of the score.
        images: whether scores of images have been computed with all of their values.
    """
    score = get_score(name)
    if score.inputs == "images" and not images:
        return []
    return combinations(score.rat_search) or openood_grid(name)


def ood_criterion(id_images: Predictions, ood_images: Predictions) -> Criterion:
    """AUROC of validation ID against validation OOD images (OpenOOD)."""

    def criterion(name: str, state: FittedScore) -> float:
        scores = (apply_score(name, state, part).numpy() for part in (id_images, ood_images))
        return ood_detection(*scores)["auroc"]

    return criterion


def error_criterion(id_images: Predictions) -> Criterion:
    """Minus the AURC of labelled in-distribution images (RAT)."""
    correct = (id_images.logits.argmax(1) == id_images.known_labels).numpy()

    def criterion(name: str, state: FittedScore) -> float:
        return -aurc(apply_score(name, state, id_images).numpy(), correct)

    return criterion


def draw_splits(seed: int, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to tune on and rows to measure, both ascending, for each split; functions of the seed alone."""
    count = int(rows * SPLIT_FRACTION)
    orders = [
        np.random.Generator(np.random.Philox(key=[seed, number])).permutation(rows)
        for number in range(SPLITS)
    ]
    return [(np.sort(order[:count]), np.sort(order[count:])) for order in orders]


def _fits(values: Mapping[str, Any], fit: FitData) -> bool:
    """Whether there are at least `k` neighbours and more than `dim` dimensions."""
    return values.get("k", 0) <= len(fit.train) and (values.get("dim") or 0) < fit.train.width[1]


def _fixed(config: RunConfig, name: str, fit: FitData) -> Mapping[str, Any]:
    """Values of a score that is not tuned; a neighbour by default must be one of the training images."""
    score, given = get_score(name), given_hyperparameters(config.evaluate).get(name, {})
    if score.inputs == "images" or "k" not in score.defaults:
        return given
    wanted = config.evaluate.knn_k if name == "knn" else score.defaults["k"]
    return {"k": min(wanted, len(fit.train))} | given
