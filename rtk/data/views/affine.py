"""Batched geometry of uint8 images, equal to Pillow's bilinear `Image.transform`.

Pillow's conventions: a map takes the centre of an output pixel to a point of the input; a point outside the
input gives 0; neighbours beyond the border repeat it; the result is truncated. Whole shifts and shears are
moves of rows and columns, so that only a rotation needs the general map. Interpolation is in float32: of what
Pillow computes in float64, a result next to a whole grey level may come out on its other side.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_CENTRE = 0.5  # of a pixel, in its own coordinates
CACHED_PIXELS = 2**17  # of the images that a CPU works on at a time
_TRUNCATION_GUARD = 1e-3  # in float32 a whole grey level must not fall below itself


def affine_bilinear(images: Tensor, coefficients: NDArray[np.float64]) -> Tensor:
    """Transform each image by its own affine map `(x, y) -> (a x + b y + c, d x + e y + f)`.

    One pixel in a thousand differs from Pillow's, by one grey level.

    Args:
        images: `(N, C, H, W)` uint8.
        coefficients: `(N, 6)` float64, `a b c d e f` in pixels, on the host.

    Returns:
        `(N, C, H, W)` uint8.
    """
    maps = torch.from_numpy(coefficients).to(images.device)
    return _in_parts(_sample, images, maps)


def shear(images: Tensor, slope: NDArray[np.float64], dim: int) -> Tensor:
    """Shift each row (`dim` 3) or column (`dim` 2) by its distance from the border times `slope (N,)`.

    All pixels of a line have the same two weights.
    """
    other = 5 - dim
    shift = slope[:, None] * (np.arange(images.shape[other]) + _CENTRE)
    return _in_parts(partial(_shift_lines, dim=dim), images, torch.from_numpy(shift).to(images.device))


def translate(images: Tensor, shift: NDArray[np.float64], dim: int) -> Tensor:
    """Read each image `shift (N,)` whole pixels further along a dimension (3: x, 2: y); black comes in."""
    length = images.shape[dim]
    order = np.argsort(shift, kind="stable")
    amounts, starts = np.unique(shift[order].clip(-length, length).astype(int), return_index=True)
    parts = torch.tensor_split(images.index_select(0, _on(images, order)), starts[1:].tolist())
    moved = [
        F.pad(part, (0, 0) * (3 - dim) + (-amount, amount))
        for part, amount in zip(parts, amounts.tolist(), strict=False)
    ]
    return torch.cat(moved or [images]).index_select(0, _on(images, np.argsort(order)))


def cache_sized(images: Tensor) -> list[slice]:
    """Parts of a batch that a CPU's cache holds from one pass to the next; on a GPU, the whole batch."""
    pixels = max(1, images.shape[2] * images.shape[3])
    count = max(1, len(images) if images.is_cuda else CACHED_PIXELS // pixels)
    return [slice(start, min(start + count, len(images))) for start in range(0, len(images), count)]


def _in_parts(work: Callable[..., Tensor], images: Tensor, values: Tensor) -> Tensor:
    """`work(images, values)`, part after part."""
    return torch.cat([work(images[part], values[part]) for part in cache_sized(images)] or [images])


def _on(images: Tensor, index: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(index).to(images.device)


def _sample(images: Tensor, maps: Tensor) -> Tensor:
    """Bilinear interpolation at mapped points."""
    height, width = images.shape[2:]
    x, y = _source_points(maps, height, width)
    # torch.stack takes five times as long to interleave them.
    grid = torch.empty((*x.shape, 2), dtype=torch.float32, device=images.device)
    grid[..., 0], grid[..., 1] = x, y
    inside = _below(torch.maximum(x.abs_(), y.abs_()), 1)
    read = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return _blacken(read.add_(_TRUNCATION_GUARD), inside.unsqueeze(1))


def _source_points(maps: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Input coordinates `x, y`, each `(N, H, W)`, of the output pixels' centres; the borders are -1 and 1."""
    a, b, c, d, e, f = (column.view(-1, 1, 1) for column in maps.unbind(1))
    x = torch.arange(width, dtype=torch.float64, device=maps.device) + _CENTRE
    y = (torch.arange(height, dtype=torch.float64, device=maps.device) + _CENTRE).view(-1, 1)
    return (a * x + c) * (2 / width) - 1 + b * y * (2 / width), (d * x + f) * (2 / height) - 1 + e * y * (
        2 / height
    )


def _shift_lines(images: Tensor, shift: Tensor, dim: int) -> Tensor:
    """Interpolation between the two neighbours that lines shifted by `shift (N, lines)` pixels have."""
    n, channels, height, width = images.shape
    length, last = images.shape[dim], images.shape[dim] - 1
    shape = (-1, 1, height, 1) if dim == 3 else (-1, 1, 1, width)  # of one value a line
    lines = _count(shift.shape[1], images).view(shape)
    # One pixel more than a line has: each pixel and the next are the two neighbours.
    place = _count(length + 1, images).view((1, 1, 1, -1) if dim == 3 else (1, 1, -1, 1))
    before = shift.floor()
    source = (place + before.int().view(shape)).clamp_(0, last)
    plane = _count(n * channels, images).view(n, channels, 1, 1) * (height * width)
    index = plane + (lines * width + source if dim == 3 else lines + source.mul_(width))
    read = images.reshape(-1).index_select(0, index.view(-1)).view(index.shape).float()
    weight = (shift - before).float().view(shape)
    mixed = torch.lerp(read.narrow(dim, 0, length), read.narrow(dim, 1, length), weight)
    twice_from_centre = (
        2 * place.narrow(dim, 0, length) - last + 2 * (shift + _CENTRE).floor().int().view(shape)
    )
    return _blacken(mixed, _below(twice_from_centre.abs_(), length))


def _blacken(values: Tensor, inside: Tensor) -> Tensor:
    """Truncate to grey levels, and to 0 where a point `(N, 1, H, W)` is outside the input."""
    return values.int().to(torch.uint8) & inside.view(torch.uint8) * 255


def _below(values: Tensor, limit: float) -> Tensor:
    """Whether values are below a limit; on a CPU by NumPy, which is eight times as fast as torch."""
    return values < limit if values.is_cuda else torch.from_numpy(values.numpy() < limit)


def _count(number: int, images: Tensor) -> Tensor:
    """0, 1, ... as int32, with which gathering is three times as fast as with int64."""
    return torch.arange(number, dtype=torch.int32, device=images.device)
