"""The views of a batch that the objective's terms look at, and what they are made from.

Every draw is keyed by (seed, epoch, sample id, view), so an image's views are the same on any
number of workers, in any batch, and after a resume.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.config.data import DataConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.views.augment import RESIZED_CROP_DRAWS, crop_flip, random_resized_crop, to_float
from rtk.data.views.draws import beta, randint, uniforms
from rtk.data.views.mixing import mixup_targets

__all__ = ["Batch", "ImageArrays", "View", "ViewMaker"]

# Ray's shared arrays are not; nothing here writes to them.
warnings.filterwarnings("ignore", "The given NumPy array is not writable")


@dataclass(frozen=True)
class View:
    """One view of a batch.

    Attributes:
        images: float in [0, 1], (n, 3, H, W), or (n, versions, 3, H, W) of several versions of each sample.
        targets: labels (n,) or distributions (n, C).
        ids: sample ids int64 (n,); None where no term keeps a state.
    """

    images: Tensor
    targets: Tensor
    ids: Tensor | None = None

    def to(self, device: torch.device) -> View:
        """The same on a device."""
        ids = None if self.ids is None else self.ids.to(device)
        return View(self.images.to(device), self.targets.to(device), ids)

    def chunk(self, count: int) -> list[View]:
        """`count` parts of the same number of samples."""
        ids = [None] * count if self.ids is None else self.ids.chunk(count)
        parts = zip(self.images.chunk(count), self.targets.chunk(count), ids, strict=True)
        return [View(*part) for part in parts]


class ViewMaker:
    """Makes the views of a batch of rows.

    Args:
        train: decoded images: the training set, or the block of a streamed one. Partners come from it.
        mixing: uint8 (P, 3, S, S) mixing pictures, S at least the image side; None where no view needs any.
        num_classes: C.
        data: augmentation settings.
        makers: what makes each view of a batch, by its name.
        seed: seed of the run.
        outliers: uint8 (O, 3, H, W) images of no class; None where no view needs any.
        device: where the views are made.
    """

    def __init__(
        self,
        train: ImageArrays,
        mixing: NDArray[np.uint8] | None,
        num_classes: int,
        data: DataConfig,
        makers: Mapping[str, Callable[[Batch], View]],
        seed: int,
        outliers: NDArray[np.uint8] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train, self.mixing = train, mixing
        self.images = torch.from_numpy(train.images)
        self.outliers = None if outliers is None else torch.from_numpy(outliers)
        self.num_classes, self.device = num_classes, torch.device(device)
        self.augment, self.image_size = data.augment, data.image_size
        self.makers, self.seed = makers, seed

    def __call__(
        self, rows: NDArray[np.int64], epoch: int, names: Collection[str], redraw: int = 0
    ) -> dict[str, View]:
        """The views called `names` of the given rows in an epoch.

        Another `redraw` gives other mixed and augmented views of the same clean images.
        """
        batch = Batch(self, rows, epoch, redraw)
        return {name: make(batch) for name, make in self.makers.items() if name in names}

    def augmented(self, rows: NDArray[np.int64], epoch: int) -> Tensor:
        """Cropped and flipped uint8 images: the same for a sample wherever it appears in an epoch."""
        return self.geometric(self.images, rows, epoch, self.train.sample_ids[rows], "")

    def geometric(
        self, images: Tensor, rows: NDArray[np.int64], epoch: int, ids: NDArray[np.int64], suffix: str
    ) -> Tensor:
        """Rows of some images, cropped and flipped; `suffix` names whose draws they are."""
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


class Batch:
    """What the views of one batch are made from.

    Attributes:
        images: clean uint8 images (n, 3, H, W), cropped and flipped.
        labels: int64 (n,).
        ids: sample ids int64 (n,), on the host.
        num_classes: C.
    """

    def __init__(self, maker: ViewMaker, rows: NDArray[np.int64], epoch: int, redraw: int) -> None:
        self._maker, self._rows, self._epoch, self._redraw = maker, rows, epoch, redraw
        self.ids, self.images = maker.train.sample_ids[rows], maker.augmented(rows, epoch)
        self.labels = torch.from_numpy(maker.train.labels[rows]).to(maker.device)
        self.num_classes = maker.num_classes

    def view(self, images: Tensor, targets: Tensor | None = None) -> View:
        """A view of this batch; uint8 images are scaled to [0, 1], and the labels are the default targets."""
        images = images if images.is_floating_point() else to_float(images)
        targets = self.labels if targets is None else targets
        return View(images, targets, torch.from_numpy(self.ids).to(self._maker.device))

    def draw(self, name: str, count: int) -> NDArray[np.float64]:
        """Uniform draws (n, count) in (0, 1); those of another name are independent of them."""
        key = f"{name}/{self._redraw}" if self._redraw else name
        return uniforms(self._maker.seed, self._epoch, self.ids, key, count)

    def beta(self, u: NDArray[np.float64], shape: float) -> Tensor:
        """Beta(shape, shape) variables (n,) from uniform draws."""
        return self.tensor(beta(u, shape, shape))

    def partners(self, u: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Clean uint8 images and labels of other training images, chosen by uniform draws (n,)."""
        maker = self._maker
        rows = randint(u, len(maker.train))
        return maker.augmented(rows, self._epoch), torch.from_numpy(maker.train.labels[rows]).to(maker.device)

    def again(self, name: str) -> Tensor:
        """The clean uint8 images (n, 3, H, W), cropped and flipped anew."""
        maker = self._maker
        return maker.geometric(maker.images, self._rows, self._epoch, self.ids, f" {name}")

    def mixed(self, labels: Tensor, lam: Tensor) -> Tensor:
        """Targets (n, C): `lam` of the batch's labels and the rest of those of partners."""
        return mixup_targets(self.labels, labels, lam, self.num_classes)

    def outliers(self, u: NDArray[np.float64]) -> Tensor:
        """Outliers, uint8, chosen by uniform draws (n,) and augmented as training images are."""
        maker = self._maker
        if maker.outliers is None:
            raise ValueError("outliers: got None, wanted outlier images, which a view is made with")
        chosen = randint(u, len(maker.outliers))
        return maker.geometric(maker.outliers, chosen, self._epoch, self.ids, " of outliers")

    def mixing_pictures(self, u: NDArray[np.float64]) -> Tensor:
        """Random crops of mixing pictures, uint8, from uniform draws (n, 3)."""
        maker = self._maker
        if maker.mixing is None:
            raise ValueError("mixing: got None, wanted mixing pictures, which a view is made with")
        chosen = [maker.mixing[row] for row in randint(u[:, 0], len(maker.mixing))]
        return torch.from_numpy(_crop(chosen, u[:, 1:], self.images.shape[-1])).to(maker.device)

    def tensor(self, values: NDArray[np.float64]) -> Tensor:
        """Numbers as float32 where the views are made."""
        return torch.from_numpy(values).float().to(self._maker.device)


def _crop(pictures: Sequence[NDArray[np.uint8]], u: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """Random crops (N, 3, size, size) of N pictures (3, S, S), from uniform draws (N, 2)."""
    corners = randint(u, pictures[0].shape[-1] - size + 1).tolist()
    crops = [
        picture[:, top : top + size, left : left + size]
        for picture, (top, left) in zip(pictures, corners, strict=True)
    ]
    return np.stack(crops)
