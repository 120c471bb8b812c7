"""Outlier exposure: images of no class should be predicted evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rtk.config.objective import Need
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class OutlierExposureConfig(SmoothedConfig):
    """Cross-entropy of images of `data.outliers` to the uniform law (OE, Hendrycks et al. 2019)."""

    needs: ClassVar[tuple[Need, ...]] = ("outliers",)
    labelled: ClassVar[bool] = False


def outlier_view(batch: Batch, config: OutlierExposureConfig) -> View:
    """As many outliers as there are images, augmented as these are, with the uniform law as their target.

    The cross-entropy is then the mean over classes of -log p (OE, ICLR 2019, section 3, with weight 0.5). Its
    least is log C; ASCOOD and others write KL to the uniform law, which is log C less and has its gradient.
    """
    import torch

    from rtk.data.views.augment import to_float

    images, classes = to_float(batch.outliers(batch.draw("outlier exposure", 1)[:, 0])), batch.num_classes
    return batch.view(images, torch.full((len(images), classes), 1 / classes, device=images.device))


OUTLIER_EXPOSURE = Term(
    "outlier_exposure",
    OutlierExposureConfig,
    ViewKind("outliers", "outliers", outlier_view),
    view_cross_entropy,
)
