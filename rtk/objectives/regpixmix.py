"""RegPixMix: cross-entropy of PixMix views, beside that of the clean images."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rtk.config.objective import Need
from rtk.config.sections import PositiveFloat, PositiveInt, Severity
from rtk.objectives.cross_entropy import SmoothedConfig, view_cross_entropy
from rtk.objectives.term import Term, ViewKind

if TYPE_CHECKING:
    from rtk.data.views.maker import Batch, View


class RegPixMixConfig(SmoothedConfig):
    """Cross-entropy of PixMix views, beside the clean term (SURE+, arXiv 2603.03903)."""

    needs: ClassVar[tuple[Need, ...]] = ("mixing",)

    k: PositiveInt = Field(4, description="most mixing rounds; each image draws 0..k")
    beta: PositiveFloat = Field(3.0, description="severity of the mixing: parameter of its Beta laws")
    severity: Severity = Field(3.0, description="largest level of an augmentation, of 10")
    all_ops: bool = Field(
        False,
        description="add the four ops that overlap with common-corruption tests, as the code of SURE+ does",
    )


def pixmix_view(batch: Batch, config: RegPixMixConfig) -> View:
    """Each image mixed with augmentations of itself and a random crop of a random mixing picture."""
    from rtk.data.views.pixmix import draw_pixmix, pixmix, pixmix_draw_count

    pictures = batch.mixing_pictures(batch.draw("picture", 3))
    draws = batch.draw("pixmix", pixmix_draw_count(config.k))
    settings = draw_pixmix(draws, config.severity, config.beta, config.k, config.all_ops)
    return batch.view(pixmix(batch.images, pictures, settings))


REGPIXMIX = Term("regpixmix", RegPixMixConfig, ViewKind("pixmix", "PixMix", pixmix_view), view_cross_entropy)
