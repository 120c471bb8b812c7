"""OpenMix: cross-entropy of images mixed with outliers, whose share goes to a class of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rtk.config.objective import Need
from rtk.config.sections import PositiveFloat
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class OpenMixConfig(SmoothedConfig):
    """Images mixed with outliers of `data.outliers`, towards `model.reject_class` (Zhu et al. 2023)."""

    needs: ClassVar[tuple[Need, ...]] = ("outliers", "reject_class")

    alpha: PositiveFloat = Field(10.0, description="both parameters of the Beta law of the image's share")


def openmix_view(batch: Batch, config: OpenMixConfig) -> View:
    """Images mixed with outliers, which are augmented as training images are."""
    from rtk.data.views.augment import to_float
    from rtk.data.views.mixing import mixup, openmix_targets

    draws = batch.draw("openmix reject", 2)
    others = batch.outliers(draws[:, 0])
    lam = batch.beta(draws[:, 1], config.alpha)
    images = mixup(to_float(batch.images), to_float(others), lam)
    return batch.view(images, openmix_targets(batch.labels, lam, batch.num_classes))


OPENMIX = Term("openmix", OpenMixConfig, ViewKind("openmix", "OpenMix", openmix_view), view_cross_entropy)
