"""AbeT's score, and ReAct and DICE on top of it: of logits that are cosines over a temperature of each image.

Behind AbeT's head (`rtk.models.heads.AbetHead`) the kept features are f = d / T, with d of unit length and
the image's temperature T, and the rows w of the weights have unit length. So the length of f is 1 / T, and
what reshapes d or w restores their lengths: T stays that of the whole features, as in the published code. Of
another head's features these scores are the same formulas, with |f| in place of 1 / T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtk.scores.hyperparameters import Percentile
from rtk.scores.logits import energy
from rtk.scores.moments import mean_row, percentile_of
from rtk.scores.neighbours import exact_unit_rows, unit_rows
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score
from rtk.scores.shaping import fit_head, head_energy


def abet(logits: Tensor) -> Tensor:
    """log sum_c exp(cos_c / T): the energy of AbeT's logits without the factor T, which works against it.

    Source: Weiss et al., "AbeT: ablated learned temperature energy for out-of-distribution detection" (arXiv
    2301.12321).
    """
    return energy(logits)


def fit_abet_react(fit_data: FitData, *, percentile: Percentile = 90.0) -> dict[str, Tensor]:
    """The head, and `threshold` (): a percentile of all entries of the validation features at unit length."""
    threshold = percentile_of(unit_rows(fit_data.validation.features), percentile)
    return {**fit_head(fit_data), "threshold": threshold}


def abet_react(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """AbeT with ReAct: entries of the unit features are clipped, which are then scaled to their length again.

    Source: Weiss et al., "AbeT: ablated learned temperature energy for out-of-distribution detection" (arXiv
    2301.12321), with ReAct (arXiv 2111.12797).
    """
    features = predictions.features.double()
    clipped = unit_rows(features).minimum(tensors["threshold"].to(features))
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return head_energy((unit_rows(clipped) * length).to(predictions.features), tensors)


def fit_abet_dice(fit_data: FitData, *, percentile: Percentile = 90.0) -> dict[str, Tensor]:
    """The head without the weights of small mean contribution, each row scaled to its length again.

    Args:
        fit_data: its training images, at unit length, and its head are used.
        percentile: part of the weights that is set to zero, those of the smallest |mean feature * weight|.
    """
    weight = fit_data.weight.double()
    contribution = (weight * mean_row(fit_data.train.features, exact_unit_rows)).abs()
    kept = weight * (contribution > percentile_of(contribution, percentile))
    scaled = unit_rows(kept) * torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return {"weight": scaled.to(fit_data.weight), "bias": fit_data.bias}


def abet_dice(predictions: Predictions, tensors: dict[str, Tensor]) -> Tensor:
    """AbeT with DICE: only the weights that contribute most are kept, in rows of their former length.

    Source: Weiss et al., "AbeT: ablated learned temperature energy for out-of-distribution detection" (arXiv
    2301.12321), with DICE (arXiv 2111.09805).
    """
    return head_energy(predictions.features, tensors)


ROWS = (
    Score("abet", abet),
    Score("abet_react", abet_react, fit_abet_react, "features", search={"percentile": (85, 90, 95, 99)}),
    Score("abet_dice", abet_dice, fit_abet_dice, "features", search={"percentile": (10, 30, 50, 70, 90)}),
)
