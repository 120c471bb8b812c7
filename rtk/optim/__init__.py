"""Optimisers, schedules, sharpness-aware steps and weight averages."""

from rtk.optim.averaging import WeightAverage, ema_decay, ema_rate, swa_rate
from rtk.optim.build import build_optimizer
from rtk.optim.esam import EfficientSam, most_risen
from rtk.optim.looksam import LookSam
from rtk.optim.msam import MomentumSam
from rtk.optim.sharpness import SharpnessAware

__all__ = [
    "EfficientSam",
    "LookSam",
    "MomentumSam",
    "SharpnessAware",
    "WeightAverage",
    "build_optimizer",
    "ema_decay",
    "ema_rate",
    "most_risen",
    "swa_rate",
]
