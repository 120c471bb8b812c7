"""The views of a batch that the objective's terms look at: clean, mixed, PixMix and so on.

Every draw is keyed by (seed, epoch, sample id, view), so a picture's views are the same on any
number of workers, in any batch, and after a resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.config.data import DataConfig
from rtk.config.objective import ObjectiveConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.views.augment import RESIZED_CROP_DRAWS, crop_flip, random_resized_crop, to_float
from rtk.data.views.augmix import augmix, augmix_draw_count, draw_augmix
from rtk.data.views.draws import beta, randint, uniforms
from rtk.data.views.mixing import cutmix, mixup, mixup_targets, openmix_targets
from rtk.data.views.pixmix import draw_pixmix, pixmix, pixmix_draw_count

__all__ = ["PICTURE_MARGIN", "VIEWS", "ImageArrays", "View", "ViewMaker"]

PICTURE_MARGIN = 9 / 8  # PixMix pictures are larger than the images and cropped at random (36 for 32)
# Ray's shared arrays are not; nothing here writes to them.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")
VIEWS = ("clean", "mixed", "cutmix", "pixmix", "augmix", "openmix")


@dataclass(frozen=True)
class View:
    """One view of a batch: images float in [0, 1]; targets labels (n,) or rows (n, C).

    Images are (n, 3, H, W), or (n, 3, 3, H, W) for `augmix`: clean and two augmentations.
    """

    images: Tensor
    targets: Tensor


class ViewMaker:
    """Makes the views of a batch of rows.

    Args:
        train: decoded images: the training set, or the block of a streamed one. Partners come from it.
        pictures: uint8 (P, 3, S, S) PixMix pictures, S at least the image side; None without PixMix.
        num_classes: C.
        data: augmentation settings.
        objective: settings of the views.
        seed: seed of the run.
        outliers: uint8 (O, 3, H, W) pictures of no class; None without OpenMix.
        device: where the views are made.
    """

    def __init__(
        self,
        train: ImageArrays,
        pictures: NDArray[np.uint8] | None,
        num_classes: int,
        data: DataConfig,
        objective: ObjectiveConfig,
        seed: int,
        outliers: NDArray[np.uint8] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train, self.pictures = train, pictures
        self.images = torch.from_numpy(train.images)
        self.outliers = None if outliers is None else torch.from_numpy(outliers)
        self.num_classes, self.device = num_classes, torch.device(device)
        self.augment, self.image_size = data.augment, data.image_size
        self.objective, self.seed = objective, seed

    def __call__(
        self, rows: NDArray[np.int64], epoch: int, names: Collection[str], redraw: int = 0
    ) -> dict[str, View]:
        """The views called `names` (of `VIEWS`) of the given rows in an epoch.

        Another `redraw` gives other mixed and augmented views of the same clean images.
        """
        clean = self._augmented(rows, epoch)
        batch = _Batch(self, rows, epoch, redraw, clean)
        return {name: getattr(batch, name)() for name in VIEWS if name in names}

    def _augmented(self, rows: NDArray[np.int64], epoch: int) -> Tensor:
        """Cropped and flipped uint8 images: the same for a sample wherever it appears in an epoch."""
        return self._geometric(self.images, rows, epoch, self.train.sample_ids[rows], "")

    def _geometric(
        self, images: Tensor, rows: NDArray[np.int64], epoch: int, ids: NDArray[np.int64], suffix: str
    ) -> Tensor:
        augment, device = self.augment, self.device
        if augment.crop == "pad":
            draws = uniforms(self.seed, epoch, ids, f"crop_flip{suffix}", 3)
            chosen = images.index_select(0, torch.from_numpy(rows))
            return crop_flip(chosen.to(device), draws, augment.crop_padding, augment.flip)
        draws = uniforms(self.seed, epoch, ids, f"resized_crop{suffix}", RESIZED_CROP_DRAWS)
        return random_resized_crop(
            [images[row].to(device) for row in rows.tolist()],  # not copied on a CPU
            draws,
            self.image_size,
            augment.crop_scale,
            augment.crop_ratio,
            augment.flip,
        )


class _Batch:
    """The views of one batch, a method each, from its clean uint8 images (n, 3, H, W)."""

    def __init__(
        self, maker: ViewMaker, rows: NDArray[np.int64], epoch: int, redraw: int, clean_images: Tensor
    ) -> None:
        self.maker, self.epoch, self.redraw = maker, epoch, redraw
        self.ids, self.images = maker.train.sample_ids[rows], clean_images
        self.labels = torch.from_numpy(maker.train.labels[rows]).to(maker.device)

    def clean(self) -> View:
        return View(to_float(self.images), self.labels)

    def mixed(self) -> View:
        """RegMixup's view; the partner is any training image, drawn by sample, not from the batch."""
        draws = self._draw("mixup", 2)
        partners, labels = self._partners(draws[:, 0])
        shape = self.maker.objective.regmixup.beta
        lam = self._tensor(beta(draws[:, 1], shape, shape))
        return View(mixup(to_float(self.images), to_float(partners), lam), self._targets(labels, lam))

    def cutmix(self) -> View:
        """CutMix's view; the partner is drawn as mixup's."""
        draws = self._draw("cutmix", 4)
        partners, labels = self._partners(draws[:, 0])
        shape = self.maker.objective.cutmix.alpha
        lam, centre = self._tensor(beta(draws[:, 1], shape, shape)), self._tensor(draws[:, 2:])
        images, left = cutmix(self.images, partners, lam, centre)
        return View(to_float(images), self._targets(labels, left))

    def pixmix(self) -> View:
        """PixMix's view, with a random crop of a random mixing picture."""
        pictures, config = self.maker.pictures, self.maker.objective.regpixmix
        if pictures is None:
            raise ValueError("pictures: got None, wanted mixing pictures for the pixmix view")
        place = self._draw("picture", 3)
        chosen = [pictures[row] for row in randint(place[:, 0], len(pictures))]
        cropped = _crop(chosen, place[:, 1:], self.images.shape[-1])
        draws = self._draw("pixmix", pixmix_draw_count(config.k))
        settings = draw_pixmix(draws, config.severity, config.beta, config.k, config.all_ops)
        return View(
            pixmix(self.images, torch.from_numpy(cropped).to(self.maker.device), settings), self.labels
        )

    def augmix(self) -> View:
        """The clean images and two independent AugMix versions of them, (n, 3, 3, H, W)."""
        versions = [self._augmix("augmix"), self._augmix("augmix 2")]
        return View(torch.stack([to_float(self.images), *versions], dim=1), self.labels)

    def openmix(self) -> View:
        """Images mixed with outliers, which are augmented as training images are."""
        outliers, maker = self.maker.outliers, self.maker
        if outliers is None:
            raise ValueError("outliers: got None, wanted outlier images for the openmix view")
        draws = self._draw("openmix", 2)
        chosen = randint(draws[:, 0], len(outliers))
        others = maker._geometric(outliers, chosen, self.epoch, self.ids, " of outliers")
        alpha = maker.objective.openmix.alpha
        lam = self._tensor(beta(draws[:, 1], alpha, alpha))
        images = mixup(to_float(self.images), to_float(others), lam)
        return View(images, openmix_targets(self.labels, lam, maker.num_classes))

    def _augmix(self, name: str) -> Tensor:
        config = self.maker.objective.augmix
        draws = self._draw(name, augmix_draw_count(config.width, config.depth))
        return augmix(
            self.images,
            draw_augmix(draws, config.severity, config.alpha, config.width, config.depth, config.all_ops),
        )

    def _draw(self, name: str, count: int) -> NDArray[np.float64]:
        """Uniform draws (n, count) of a view."""
        key = f"{name}/{self.redraw}" if self.redraw else name
        return uniforms(self.maker.seed, self.epoch, self.ids, key, count)

    def _partners(self, u: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Clean views and labels of partners, drawn from all images that the maker has."""
        rows = randint(u, len(self.maker.train))
        labels = torch.from_numpy(self.maker.train.labels[rows]).to(self.maker.device)
        return self.maker._augmented(rows, self.epoch), labels

    def _targets(self, labels: Tensor, lam: Tensor) -> Tensor:
        return mixup_targets(self.labels, labels, lam, self.maker.num_classes)

    def _tensor(self, values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).float().to(self.maker.device)


def _crop(pictures: Sequence[NDArray[np.uint8]], u: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Random crops (N, 3, size, size) of N pictures (3, S, S), from uniform draws (N, 2)."""
    corners = randint(u, pictures[0].shape[-1] - size + 1).tolist()
    crops = [
        picture[:, top : top + size, left : left + size]
        for picture, (top, left) in zip(pictures, corners, strict=True)
    ]
    return np.stack(crops)
