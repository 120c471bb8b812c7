"""Batched affine transformation of uint8 images, equal to Pillow's bilinear `Image.transform`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CENTRE = 0.5  # of a pixel, in its own coordinates


def affine_bilinear(images: Tensor, coefficients: NDArray[np.float64]) -> Tensor:
    """Transform each image by its own affine map, with bilinear interpolation.

    Pillow's conventions: `(x, y) -> (a x + b y + c, d x + e y + f)` takes the centre of an output pixel to a
    point of the input; a point outside the input gives 0; neighbours beyond the border repeat it; the result
    is truncated. The arithmetic is in float64 in Pillow's order, because one rounding more or less moves a
    truncated grey level.

    Args:
        images: `(N, C, H, W)` uint8.
        coefficients: `(N, 6)` float64, `a b c d e f` in pixels, on the host.

    Returns:
        `(N, C, H, W)` uint8.
    """
    n, channels, height, width = images.shape
    x, y = _source_points(torch.from_numpy(coefficients).to(images.device), height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, dx = _neighbours(x)
    top, dy = _neighbours(y)
    columns = [(left + i).clamp_(0, width - 1) for i in (0, 1)]
    rows = [(top + i).clamp_(0, height - 1).mul_(width) for i in (0, 1)]
    flat = images.flatten(2)

    def read(row: Tensor, column: Tensor) -> Tensor:
        index = (row + column).view(n, 1, -1).expand(-1, channels, -1)
        return flat.gather(2, index).view(images.shape)

    def read_between(row: Tensor) -> Tensor:
        if _hits_centres(coefficients, 0):
            return read(row, columns[0])
        return _interpolate(read(row, columns[0]), read(row, columns[1]), dx)

    result = read_between(rows[0])
    if not _hits_centres(coefficients, 1):
        result = _interpolate(result, read_between(rows[1]), dy)
    return result.mul_(inside.unsqueeze(1)).to(torch.uint8)


def _source_points(coefficients: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Input coordinates `x, y`, each `(N, H, W)`, of the centres of the output pixels."""
    a, b, c, d, e, f = (column.view(-1, 1, 1) for column in coefficients.unbind(1))
    x = torch.arange(width, dtype=torch.float64, device=coefficients.device) + _CENTRE
    y = (torch.arange(height, dtype=torch.float64, device=coefficients.device) + _CENTRE).view(-1, 1)
    return a * x + b * y + c, d * x + e * y + f


def _neighbours(position: Tensor) -> tuple[Tensor, Tensor]:
    """Index `(N, H, W)` of the pixel centre before a position, and the distance `(N, 1, H, W)` from it."""
    position = position - _CENTRE
    before = position.floor()
    return before.long(), (position - before).unsqueeze(1)


def _hits_centres(coefficients: NDArray[np.float64], axis: int) -> bool:
    """Whether all maps shift this axis (0: x, 1: y) by whole pixels, so that it needs no interpolation."""
    along, shift = coefficients[:, 3 * axis : 3 * axis + 2], coefficients[:, 3 * axis + 2]
    return bool(np.all(along == np.eye(2)[axis]) and np.all(shift == np.trunc(shift)))


def _interpolate(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """`start + (end - start) * weight` in float64, in this order (torch.lerp rounds otherwise beyond 1/2)."""
    start = start.double()
    return (end.double() - start).mul_(weight).add_(start)
