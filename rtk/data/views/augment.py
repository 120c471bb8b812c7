"""Cropping and flipping of uint8 images, driven by explicit uniform draws."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rtk.data.views.draws import check_draws, randint
from rtk.data.views.image_ops import check_images

CROP_ATTEMPTS = 10
RESIZED_CROP_DRAWS = 2 * CROP_ATTEMPTS + 3


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images, any shape, to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)


def crop_flip(images: Tensor, u: NDArray[np.float64], padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop of the zero-padded image at its old size, then a horizontal flip with probability 1/2.

    Args:
        images: `(N, 3, H, W)` uint8.
        u: `(N, 3)` uniform draws: row, column, flip.
        padding: black pixels added on each side.
        flip: whether to flip at all.

    Returns:
        `(N, 3, H, W)` uint8.

    Raises:
        ValueError: if the images are not uint8 RGB, or `u` or `padding` is out of range.
    """
    check_images("images", images)
    n, channels, height, width = images.shape
    check_draws(u, n, 3)
    if padding < 0:
        raise ValueError(f"padding: got {padding}, wanted >= 0")
    top, left = randint(u[:, :2], 2 * padding + 1).T
    flipped = flip & (u[:, 2] < 0.5)
    columns = np.where(flipped[:, None], np.arange(width)[::-1], np.arange(width)) + left[:, None]
    padded = F.pad(images, (padding,) * 4)
    planes = np.arange(n * channels).reshape(n, channels, 1) * (
        (height + 2 * padding) * (width + 2 * padding)
    )
    lines = planes + (top[:, None] + np.arange(height))[:, None] * (width + 2 * padding)
    # One flat int32 index is read three times as fast as by gather, which wants int64.
    lines, columns = (torch.from_numpy(x.astype(np.int32)).to(images.device) for x in (lines, columns))
    index = lines.view(n, channels, height, 1) + columns.view(n, 1, 1, width)
    return padded.reshape(-1).index_select(0, index.view(-1)).view(images.shape)


def random_resized_crop(
    images: Tensor | Sequence[Tensor],
    u: NDArray[np.float64],
    size: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Tensor:
    """Cut a random part of each image, resize it with antialiased bilinear interpolation and flip half of
    them.

    Args:
        images: `(N, 3, H, W)` uint8, or N images `(3, H_i, W_i)` uint8 of any sizes.
        u: `(N, RESIZED_CROP_DRAWS)` uniform draws; see `crop_boxes`; the last one decides the flip.
        size: side of the square result, in pixels.
        scale: smallest and largest share of the area of the image that the part has.
        ratio: smallest and largest width over height of the part.
        flip: whether to flip at all.

    Returns:
        `(N, 3, size, size)` uint8. Equal to Pillow's resize to within one grey level.

    Raises:
        ValueError: if an image is not uint8 RGB, or `u`, `scale` or `ratio` is out of range.
    """
    check_draws(u, len(images), RESIZED_CROP_DRAWS)
    heights, widths = np.array([image.shape[-2:] for image in images]).reshape(-1, 2).T
    boxes = crop_boxes(heights, widths, u, scale, ratio)
    flipped = flip & (u[:, -1] < 0.5)
    result = [_resize(image, box, size) for image, box in zip(images, boxes.tolist(), strict=True)]
    return torch.stack(
        [image.flip(2) if mirror else image for image, mirror in zip(result, flipped, strict=True)]
    )


def crop_boxes(
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    u: NDArray[np.float64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes of random area and aspect ratio, drawn as `torchvision.transforms.RandomResizedCrop` draws them.

    The first of ten attempts that fits into the image is taken, or else the largest central box of a
    permitted ratio (the idea: Szegedy et al., "Going deeper with convolutions", CVPR 2015).

    Args:
        heights: `(N,)` heights of the images, in pixels.
        widths: `(N,)` widths.
        u: `(N, >= 22)` uniform draws: ten areas, ten ratios, row, column.
        scale: range of the share of the area, within (0, 1].
        ratio: range of width over height, positive.

    Returns:
        `(N, 4)` int64: top, left, height, width.

    Raises:
        ValueError: if a range is empty or out of bounds.
    """
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"scale, ratio: got {scale}, {ratio}, wanted 0 < low <= high, and scale at most 1")
    area = (heights * widths)[:, None] * (scale[0] + (scale[1] - scale[0]) * u[:, :CROP_ATTEMPTS])
    aspect = ratio[0] * (ratio[1] / ratio[0]) ** u[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS]  # log-uniform
    attempts = np.stack([np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))], axis=-1)
    limits = np.stack([heights, widths], axis=-1)
    fits = np.all((attempts > 0) & (attempts <= limits[:, None]), axis=-1)
    first = attempts[np.arange(len(u)), fits.argmax(1)]
    fitted = np.any(fits, axis=1, keepdims=True)
    sides = np.where(fitted, first, _central_sides(limits, ratio))
    position = np.where(
        fitted, u[:, 2 * CROP_ATTEMPTS : 2 * CROP_ATTEMPTS + 2] * (limits - sides + 1), (limits - sides) // 2
    )
    return np.concatenate([np.floor(position), sides], axis=1).astype(np.int64)


def _central_sides(limits: NDArray[np.int64], ratio: tuple[float, float]) -> NDArray[np.float64]:
    """Height and width `(N, 2)` of the largest box whose width over height is within `ratio`."""
    heights, widths = limits.T
    return np.stack(
        [np.minimum(heights, np.rint(widths / ratio[0])), np.minimum(widths, np.rint(heights * ratio[1]))],
        axis=-1,
    )


def _resize(image: Tensor, box: list[int], size: int) -> Tensor:
    """Part `top, left, height, width` of an image, resized to `(3, size, size)` uint8."""
    top, left, height, width = box
    part = image[None, :, top : top + height, left : left + width]
    check_images("images", part)
    if part.is_cuda:  # torch has a (much faster) uint8 kernel on CPU only
        resized = F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True)
        return resized[0].round().to(torch.uint8)
    return _planes(F.interpolate(_pixels(part), (size, size), mode="bilinear", antialias=True))


def _pixels(part: Tensor) -> Tensor:
    """Planes `(1, 3, H, W)` as pixels of four bytes, `(1, 4, H, W)` channels_last.

    That is the layout torch's kernel works in; it takes much longer to make it than this does.
    """
    red, green, blue = part[0].int().contiguous().unbind(0)
    words = red.add_(green, alpha=2**8).add_(blue, alpha=2**16)
    return words.view(torch.uint8).view(1, *part.shape[2:], 4).permute(0, 3, 1, 2)


def _planes(pixels: Tensor) -> Tensor:
    """Planes `(3, H, W)` of such pixels."""
    words = pixels.permute(0, 2, 3, 1).contiguous().view(torch.int32)[0, ..., 0]
    return (words >> torch.tensor([0, 8, 16], dtype=torch.int32).view(3, 1, 1)).to(torch.uint8)
