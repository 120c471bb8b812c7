"""RegMixup: cross-entropy of mixed pairs, beside that of the clean images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from rtk.config.sections import PositiveFloat
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class RegMixupConfig(SmoothedConfig):
    """Cross-entropy of mixed pairs, beside the clean term (RegMixup, Pinto et al. 2022)."""

    beta: PositiveFloat = Field(10.0, description="both parameters of the Beta law of lambda")


def mixed_view(batch: Batch, config: RegMixupConfig) -> View:
    """Each image mixed with a partner: any training image, drawn by sample, not from the batch."""
    from rtk.data.views.augment import to_float
    from rtk.data.views.mixing import mixup

    draws = batch.draw("mixup", 2)
    partners, labels = batch.partners(draws[:, 0])
    lam = batch.beta(draws[:, 1], config.beta)
    return batch.view(mixup(to_float(batch.images), to_float(partners), lam), batch.mixed(labels, lam))


MIXED = ViewKind("mixed", "mixup", mixed_view)
REGMIXUP = Term("regmixup", RegMixupConfig, MIXED, view_cross_entropy)
