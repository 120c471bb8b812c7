"""MixOE: cross-entropy of images mixed with outliers, whose share is spread over all classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from rtk.config.objective import Need
from rtk.config.sections import PositiveFloat
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class MixOEConfig(SmoothedConfig):
    """Images mixed with outliers of `data.outliers`, towards the uniform law (Zhang et al. 2023)."""

    needs: ClassVar[tuple[Need, ...]] = ("outliers",)

    mix: Literal["mixup", "cutmix"] = Field(
        "mixup", description="a mean of both, or a box of the outlier in the image"
    )
    alpha: PositiveFloat = Field(1.0, description="both parameters of the Beta law of the image's share")


def mixoe_view(batch: Batch, config: MixOEConfig) -> View:
    """Images mixed with outliers, which are augmented as training images are."""
    from rtk.data.views.augment import to_float
    from rtk.data.views.mixing import cutmix, mixoe_targets, mixup

    # Under the name that the term had at first, so that runs from then go on with the same pictures.
    draws = batch.draw("openmix", 4 if config.mix == "cutmix" else 2)
    others = batch.outliers(draws[:, 0])
    lam = batch.beta(draws[:, 1], config.alpha)
    if config.mix == "cutmix":
        images, lam = cutmix(batch.images, others, lam, batch.tensor(draws[:, 2:]))
    else:
        images = mixup(to_float(batch.images), to_float(others), lam)
    return batch.view(images, mixoe_targets(batch.labels, lam, batch.num_classes))


MIXOE = Term("mixoe", MixOEConfig, ViewKind("mixoe", "MixOE", mixoe_view), view_cross_entropy)
