"""Every score by name; each family of scores exports its rows."""

from __future__ import annotations

from rtk.scores import (
    calibrated,
    gaussian,
    gradients,
    gram,
    logits,
    minimal,
    neighbours,
    openmax,
    prototypes,
    radius,
    shaping,
    sirc,
    subspace,
)
from rtk.scores.score import Score

_FAMILIES = (
    logits.ROWS,
    calibrated.ROWS,
    openmax.ROWS,
    gaussian.ROWS,
    neighbours.ROWS,
    prototypes.ROWS,
    subspace.ROWS,
    sirc.ROWS,
    shaping.ROWS,
    gradients.ROWS,
    radius.ROWS,
    minimal.ROWS,
    gram.ROWS,
)

SCORES: dict[str, Score] = {row.name: row for rows in _FAMILIES for row in rows}

# The nine post-processors of SURE+'s tables (arXiv 2603.03903).
DEFAULT_SCORES = ("msp", "openmax", "mds", "gram", "react", "klm", "vim", "knn", "sirc")
