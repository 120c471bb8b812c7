"""Public name of the mixing augmentations: `from rtk.data.mixing import mixup, cutmix, pixmix, augmix`."""

from rtk.data.views.augmix import AugMixDraws, augmix, augmix_draw_count, draw_augmix
from rtk.data.views.mixing import cutmix, mixoe_targets, mixup, mixup_targets, openmix_targets
from rtk.data.views.pixmix import PixMixDraws, draw_pixmix, pixmix, pixmix_draw_count

__all__ = [
    "AugMixDraws",
    "PixMixDraws",
    "augmix",
    "augmix_draw_count",
    "cutmix",
    "draw_augmix",
    "draw_pixmix",
    "mixoe_targets",
    "mixup",
    "mixup_targets",
    "openmix_targets",
    "pixmix",
    "pixmix_draw_count",
]
