"""Decoded images as arrays; imports no torch, so that decoding tasks start quickly and stay small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageArrays:
    """Decoded images, shared read-only by all workers of a node.

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

    def cropped(self, size: int) -> ImageArrays:
        """The central `size` x `size` pixels of every image, without a copy."""
        top, left = ((side - size) // 2 for side in self.images.shape[2:])
        images = self.images[:, :, top : top + size, left : left + size]
        return ImageArrays(images, self.labels, self.sample_ids)
