"""CutMix beside the clean images: cross-entropy of images with a box of another pasted in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rtk.config.sections import PositiveFloat
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class CutMixConfig(SmoothedConfig):
    """Cross-entropy of images with a box of another pasted in, beside the clean term (Yun et al. 2019)."""

    alpha: PositiveFloat = Field(1.0, description="both parameters of the Beta law of the share that is left")


def cutmix_view(batch: Batch, config: CutMixConfig) -> View:
    """Each image with a box of a partner, which is drawn as mixup's."""
    from rtk.data.views.mixing import cutmix

    draws = batch.draw("cutmix", 4)
    partners, labels = batch.partners(draws[:, 0])
    lam, centre = batch.beta(draws[:, 1], config.alpha), batch.tensor(draws[:, 2:])
    images, left = cutmix(batch.images, partners, lam, centre)
    return batch.view(images, batch.mixed(labels, left))


CUTMIX = Term("cutmix", CutMixConfig, ViewKind("cutmix", "CutMix", cutmix_view), view_cross_entropy)
