"""Every score by name; each family of scores exports its rows."""

from __future__ import annotations

import re

from rtk.config.plugin_files import add_row
from rtk.scores import (
    abet,
    adascale,
    averaged,
    calibrated,
    densities,
    disagreement,
    gaussian,
    gradients,
    gradnorm,
    gram,
    logits,
    minimal,
    neighbours,
    openmax,
    principal,
    prototypes,
    radius,
    rankfeat,
    relative_uncertainty,
    shaping,
    sirc,
    subspace,
)
from rtk.scores.score import Score

_FAMILIES = (
    logits.ROWS,
    calibrated.ROWS,
    relative_uncertainty.ROWS,
    openmax.ROWS,
    gaussian.ROWS,
    neighbours.ROWS,
    prototypes.ROWS,
    subspace.ROWS,
    principal.ROWS,
    densities.ROWS,
    gradnorm.ROWS,
    sirc.ROWS,
    shaping.ROWS,
    abet.ROWS,
    gradients.ROWS,
    radius.ROWS,
    minimal.ROWS,
    gram.ROWS,
    rankfeat.ROWS,
    adascale.ROWS,
    averaged.ROWS,
    disagreement.ROWS,
)

SCORES: dict[str, Score] = {row.name: row for rows in _FAMILIES for row in rows}

# Columns and words that a score would be taken for.
_RESERVED = (
    *("set", "group", "sample_id", "label", "prediction", "is_correct", "logits", "features", "path"),
    *("all", "sure_plus", "recommended", "disagreement"),
)

# The nine post-processors of SURE+'s tables (arXiv 2603.03903).
DEFAULT_SCORES = ("msp", "openmax", "mds", "gram", "react", "klm", "vim", "knn", "sirc")

DISAGREEMENT_SCORES = tuple(name for name, score in SCORES.items() if score.of_ensembles)

# Whatever the network: softmax and logits, neighbours, the space that features leave.
_RECOMMENDED = ("msp", "gen", "knn", "vim", "sirc")
# Shaping pays where activations are non-negative and sparse, as behind BatchNorm and ReLU: on OpenOOD's board
# ASH has a near-OOD AUROC of 78 with a ResNet-50 and of 53, hardly more than chance, with a ViT-B/16.
_OF_RECTIFIED = ("react", "ash", "scale", "fdbd", "nci", "adascale_a")
# Features of transformers and of networks with other activations have both signs; Gaussians fit them.
_OF_OTHERS = ("rmds", "mds_pp", "rmds_pp", "neco")
_RECTIFIED = re.compile(r"resne[xs]?t(?!v2)|wrn|densenet|regnet[xy]|vgg\d+_bn|mobilenetv2|efficientnet_lite")


def recommended_scores(backbone: str) -> tuple[str, ...]:
    """Scores to compare for a backbone of `model.name`: those that suit its features."""
    return _RECOMMENDED + (_OF_RECTIFIED if _RECTIFIED.search(backbone) else _OF_OTHERS)


def register(score: Score) -> None:
    """Add a score of a user's file; a file that is run again replaces its own.

    Raises:
        ValueError: the name is taken, or none that a column may have.
    """
    if not score.name.isidentifier() or score.name in _RESERVED:
        raise ValueError(
            f"score: got the name {score.name!r}, wanted letters and digits, and no column's name"
        )
    add_row(SCORES, "score", score.name, score)
