"""The views of a batch that the objective's terms look at: clean, mixed, PixMix.

Every draw is keyed by (seed, epoch, sample id, view), so a picture's views are the same on any
number of workers, in any batch, and after a resume.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.config.schema import AugmentConfig, DataConfig, ObjectiveConfig
from rtk.data.augment import crop_flip, to_float
from rtk.data.draws import beta, randint, uniforms
from rtk.data.mixing import draw_pixmix, mixup, mixup_targets, pixmix, pixmix_draw_count


@dataclass(frozen=True)
class ImageArrays:
    """A decoded data set, shared read-only by all workers of a node.

    Attributes:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        sample_ids: int64 (N,), stable names of the rows.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    sample_ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | slice) -> ImageArrays:
        """The given rows."""
        return ImageArrays(self.images[rows], self.labels[rows], self.sample_ids[rows])


@dataclass(frozen=True)
class View:
    """One view of a batch: images float (n, 3, H, W) in [0, 1]; targets labels (n,) or rows (n, C)."""

    images: Tensor
    targets: Tensor


class ViewMaker:
    """Makes the views of a batch of rows.

    Args:
        train: decoded training set.
        pictures: uint8 (P, 3, S, S) PixMix pictures, S at least the image side; None without PixMix.
        num_classes: C.
        data: augmentation settings.
        objective: settings of the views.
        seed: seed of the run.
    """

    def __init__(
        self,
        train: ImageArrays,
        pictures: NDArray[np.uint8] | None,
        num_classes: int,
        data: DataConfig,
        objective: ObjectiveConfig,
        seed: int,
    ) -> None:
        self.train, self.pictures, self.num_classes = train, pictures, num_classes
        self.augment: AugmentConfig = data.augment
        self.objective, self.seed = objective, seed

    def __call__(
        self, rows: NDArray[np.int64], epoch: int, names: Collection[str], redraw: int = 0
    ) -> dict[str, View]:
        """The views called `names` (`clean`, `mixed`, `pixmix`) of the given rows in an epoch.

        Another `redraw` gives other mixed and PixMix views of the same clean images.
        """
        clean = self._augmented(rows, epoch)
        labels = torch.from_numpy(self.train.labels[rows])
        views = {}
        if "clean" in names:
            views["clean"] = View(to_float(clean), labels)
        if "mixed" in names:
            views["mixed"] = self._mixed(rows, epoch, clean, labels, redraw)
        if "pixmix" in names:
            views["pixmix"] = View(self._pixmix(rows, epoch, clean, redraw), labels)
        return views

    def _augmented(self, rows: NDArray[np.int64], epoch: int) -> Tensor:
        """Cropped and flipped uint8 images: the same for a sample wherever it appears in an epoch."""
        draws = uniforms(self.seed, epoch, self.train.sample_ids[rows], "crop_flip", 3)
        images = torch.from_numpy(self.train.images[rows])
        return crop_flip(images, draws, self.augment.crop_padding, self.augment.flip)

    def _mixed(self, rows: NDArray[np.int64], epoch: int, clean: Tensor, labels: Tensor, redraw: int) -> View:
        """RegMixup's view; the partner is any training image, drawn by sample, not from the batch."""
        draws = uniforms(self.seed, epoch, self.train.sample_ids[rows], _key("mixup", redraw), 2)
        partners = randint(draws[:, 0], len(self.train))
        shape = self.objective.regmixup.beta
        lam = torch.from_numpy(beta(draws[:, 1], shape, shape)).float()
        images = mixup(to_float(clean), to_float(self._augmented(partners, epoch)), lam)
        partner_labels = torch.from_numpy(self.train.labels[partners])
        return View(images, mixup_targets(labels, partner_labels, lam, self.num_classes))

    def _pixmix(self, rows: NDArray[np.int64], epoch: int, clean: Tensor, redraw: int) -> Tensor:
        if self.pictures is None:
            raise ValueError("pictures: got None, wanted mixing pictures for the pixmix view")
        config, ids = self.objective.regpixmix, self.train.sample_ids[rows]
        picture = uniforms(self.seed, epoch, ids, _key("picture", redraw), 3)
        chosen = self.pictures[randint(picture[:, 0], len(self.pictures))]
        cropped = _crop(chosen, picture[:, 1:], clean.shape[-1])
        draws = uniforms(self.seed, epoch, ids, _key("pixmix", redraw), pixmix_draw_count(config.k))
        settings = draw_pixmix(draws, config.severity, config.beta, config.k, config.all_ops)
        return pixmix(clean, torch.from_numpy(cropped), settings)


def _key(view: str, redraw: int) -> str:
    """Name that a view's draws are keyed by."""
    return f"{view}/{redraw}" if redraw else view


def _crop(pictures: NDArray[np.uint8], u: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Random crops (N, 3, size, size) of pictures (N, 3, S, S), from uniform draws (N, 2)."""
    top, left = randint(u, pictures.shape[-1] - size + 1).T
    inside = np.arange(size)
    index = np.arange(len(pictures))[:, None, None]
    rows, columns = (top[:, None] + inside)[:, :, None], (left[:, None] + inside)[:, None, :]
    # Advanced indices around the channel slice put channels last.
    return np.ascontiguousarray(pictures[index, :, rows, columns].transpose(0, 3, 1, 2))
