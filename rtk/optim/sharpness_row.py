"""The sharpness-aware step of a config, and its row in the table of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtk.optim.esam import EfficientSam
from rtk.optim.looksam import ORTHOGONAL_GRADIENT, LookSam
from rtk.optim.method import MethodRow, MethodSetup
from rtk.optim.msam import MomentumSam
from rtk.optim.sharpness import GRADIENT_AVERAGE, SharpnessAware

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig

ONE_PASS = ("none", "msam")


def build_sharpness(config: RunConfig, setup: MethodSetup) -> SharpnessAware | None:
    """The sharpness-aware step of a config; None where it is off."""
    settings = config.sharpness
    if settings.variant == "none":
        return None
    if settings.variant == "msam":
        return MomentumSam(setup.optimizer, settings.rho, setup.shards)
    if settings.variant == "esam":
        return EfficientSam(
            setup.optimizer,
            settings.rho,
            settings.share,
            settings.perturbed,
            settings.every,
            config.seed,
            setup.shards,
        )
    if settings.variant == "looksam":
        return LookSam(setup.optimizer, settings.rho, settings.alpha, settings.every, setup.shards)
    return SharpnessAware(
        setup.optimizer,
        settings.variant,
        rho=settings.rho,
        sigma=settings.sigma,
        lmbda=settings.lmbda,
        every=settings.every,
        shards=setup.own_shards() if settings.sync == "local" else setup.shards,
    )


SHARPNESS = MethodRow(
    "sharpness",
    off="sharpness.variant is none",
    build=build_sharpness,
    bytes_per_weight=lambda config: 4 * (config.sharpness.variant in ("fsam", "looksam")),
    first_pass_bytes=lambda config: 4 * (config.sharpness.variant == "msam"),
    second_pass_bytes=lambda config: 4 * (config.sharpness.variant not in ONE_PASS),
    kinds={
        GRADIENT_AVERAGE: "an F-SAM gradient average",
        ORTHOGONAL_GRADIENT: "LookSAM's orthogonal gradients",
    },
)
