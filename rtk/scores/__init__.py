"""Scores of single images: larger = more trustworthy, more in-distribution.

A score turns predictions (logits and features) into one number per image. Most are fitted first, on
un-augmented training and validation images. Others run the model: on input gradients or feature maps. Pure
PyTorch.
"""

from rtk.scores.calibrated import fit_temperature
from rtk.scores.compute import (
    FittedScore,
    apply_score,
    compute_image_score,
    compute_score,
    expand_scores,
    fit_image_score,
    fit_score,
    get_score,
)
from rtk.scores.image_fit import ImagePass
from rtk.scores.predictions import FitData, Predictions
from rtk.scores.score import Score
from rtk.scores.selection import image_scores, wanted_scores
from rtk.scores.table import DEFAULT_SCORES, SCORES, register

__all__ = [
    "DEFAULT_SCORES",
    "SCORES",
    "FitData",
    "FittedScore",
    "ImagePass",
    "Predictions",
    "Score",
    "apply_score",
    "compute_image_score",
    "compute_score",
    "expand_scores",
    "fit_image_score",
    "fit_score",
    "fit_temperature",
    "get_score",
    "image_scores",
    "register",
    "wanted_scores",
]
