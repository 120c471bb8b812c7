"""Pillow's image operations on batches of uint8 tensors, for PixMix and AugMix, on CPU or CUDA.

Every operation is `op(images, level, sign)` from and to `(N, 3, H, W)` uint8, and equals Pillow grey level by
grey level (but for one level at a pixel in 100,000 of a shear, and in 1,000 of a rotation). `level (N,)` runs
from 0 to 10 as in AugMix and is scaled to the unit of the operation (bits, degrees, pixels, ...);
`sign (N,)`, +1 or -1, is the direction of a geometric one. Operations without level or sign ignore them. Both
are arrays on the host, like all draws.

Sources: AugMix, Hendrycks et al., ICLR 2020; PixMix, Hendrycks et al., CVPR 2022, whose scales are used.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.data.views.affine import affine_bilinear, shear, translate
from rtk.data.views.draws import randint

LOWEST_LEVEL = 0.1
MAX_LEVEL = 10
OP_DRAWS = 3

Array = NDArray[Any]


def apply_ops(images: Tensor, op_index: Array, level: Array, sign: Array) -> Tensor:
    """Apply to each image its own operation, each operation once to all images that want it.

    Args:
        images: `(M, 3, H, W)` uint8.
        op_index: `(M,)` positions in `OPS`; -1 leaves the image as it is. An array on the host, like the
            other draws, so that grouping never waits for a GPU.
        level: `(M,)` levels in [0, 10).
        sign: `(M,)` +1 or -1.

    Returns:
        `(M, 3, H, W)` uint8.

    Raises:
        ValueError: if `images` are not uint8 RGB, or an index is not one of an operation.
    """
    check_images("images", images)
    if len(op_index) != len(images):
        raise ValueError(
            f"op_index: got {len(op_index)} entries, wanted one for each of {len(images)} images"
        )
    if np.any((op_index < -1) | (op_index >= len(OPS))):
        raise ValueError(f"op_index: got {np.unique(op_index)}, wanted -1..{len(OPS) - 1}")
    pieces, order = apply_ops_sorted(images, np.arange(len(images)), op_index, level, sign)
    back = torch.from_numpy(np.argsort(order)).to(images.device)
    return torch.cat(pieces).index_select(0, back) if pieces else images.clone()


def apply_ops_sorted(
    images: Tensor, source: Array, op_index: Array, level: Array, sign: Array
) -> tuple[list[Tensor], NDArray[np.int64]]:
    """As `apply_ops` of `images[source]`, but sorted by operation and in pieces: images are copied once only.

    Returns:
        Pieces, which together are M images, and `(M,)`: which of `source` each of them was made from.
    """
    order = np.argsort(op_index, kind="stable")
    ends = np.searchsorted(op_index[order], np.arange(-1, len(OPS)), side="right")
    by_op = images.index_select(0, torch.from_numpy(source[order]).to(images.device))
    pieces = [by_op[: ends[0]]] if ends[0] else []
    for operation, start, end in zip(_OPERATIONS, ends, ends[1:], strict=False):
        if end > start:
            rows = order[start:end]
            pieces.append(operation(by_op[start:end], level[rows], sign[rows]))
    return pieces, order


def draw_ops(
    u: NDArray[np.float64], severity: float, all_ops: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Draw operations for `apply_ops`, as PixMix and AugMix do.

    Args:
        u: `(..., OP_DRAWS)` uniform draws: operation, level, sign.
        severity: highest level; levels are uniform in [0.1, severity].
        all_ops: whether to draw from all of `OPS` rather than from `DEFAULT_OPS`.

    Returns:
        Operation, level and sign, each `(...)`.

    Raises:
        ValueError: if `severity` is not within 0.1 to 10.
    """
    if not LOWEST_LEVEL <= severity <= MAX_LEVEL:
        raise ValueError(f"severity: got {severity}, wanted {LOWEST_LEVEL}..{MAX_LEVEL}")
    op = randint(u[..., 0], len(OPS if all_ops else DEFAULT_OPS))
    level = LOWEST_LEVEL + (severity - LOWEST_LEVEL) * u[..., 1]
    return op, level, np.where(u[..., 2] < 0.5, 1, -1)


def check_images(name: str, images: Tensor) -> None:
    """Raise ValueError unless `images` is a batch `(N, 3, H, W)` of uint8 RGB images."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"{name}: got {images.dtype} of shape {tuple(images.shape)}, wanted uint8 (N, 3, H, W)"
        )


def autocontrast(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Stretch each channel so that its darkest pixel becomes 0 and its brightest 255."""
    darkest = images.amin((2, 3)).double().unsqueeze(2)
    brightest = images.amax((2, 3)).double().unsqueeze(2)
    scale = torch.full_like(darkest, 255) / (
        brightest - darkest
    )  # 255 / tensor would multiply by the reciprocal
    grey = torch.arange(256, dtype=torch.float64, device=images.device)
    stretched = (grey * scale + -darkest * scale).clamp(0, 255)
    return _look_up(images, torch.where(brightest > darkest, stretched, grey))


def equalize(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Map each channel so that its histogram becomes about uniform."""
    histogram = _histogram(images)
    brightest = images.amax((2, 3)).long().unsqueeze(2)
    step = (histogram.sum(2, keepdim=True) - histogram.gather(2, brightest)) // 255
    darker = histogram.cumsum(2) - histogram
    equalized = (darker + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp(max=255)
    grey = torch.arange(256, device=images.device)
    return _look_up(images, torch.where(step > 0, equalized, grey))


def posterize(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Keep the `4 - level` highest bits, with the level scaled to 0..4 and truncated."""
    dropped_bits = 4 + _whole(level, 4)
    return images & _per_image(256 - 2**dropped_bits, images, torch.uint8)


def rotate(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Rotate about the centre by whole degrees, up to 30."""
    height, width = images.shape[2:]
    angle = -np.deg2rad(sign * _whole(level, 30) % 360)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)  # 15 decimals as in Pillow
    shift_x = cos * (-width / 2) + sin * (-height / 2) + width / 2
    shift_y = -sin * (-width / 2) + cos * (-height / 2) + height / 2
    return affine_bilinear(images, np.stack([cos, sin, shift_x, -sin, cos, shift_y], axis=1))


def solarize(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Invert the pixels at or above `256 - level`, with the level scaled to 0..256 and truncated."""
    highest_kept = _per_image(255 - _whole(level, 256), images, torch.uint8)
    # torch compares with a broadcast operand, and selects by a mask, 15 times slower than this.
    above = images > highest_kept.expand_as(images).contiguous()
    return images ^ above.view(torch.uint8) * 255


def shear_x(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Shift each row by up to 0.3 times its height in the image."""
    return shear(images, sign * _real(level, 0.3), dim=3)


def shear_y(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Shift each column by up to 0.3 times its distance from the left."""
    return shear(images, sign * _real(level, 0.3), dim=2)


def translate_x(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Shift sideways by whole pixels, up to a third of the width."""
    return translate(images, sign * _whole(level, images.shape[3] / 3), dim=3)


def translate_y(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Shift up or down by whole pixels, up to a third of the height."""
    return translate(images, sign * _whole(level, images.shape[2] / 3), dim=2)


def color(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Saturation: move from (or towards) the grey version of the image."""
    return _enhance(_luminance(images), images, level)


def contrast(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Contrast: move from (or towards) the mean grey of the image."""
    grey = _luminance(images)
    pixels = grey.shape[2] * grey.shape[3]
    mean = (2 * grey.sum((1, 2, 3)) + pixels) // (2 * pixels)  # rounded half up, in integers
    return _enhance(mean.view(-1, 1, 1, 1), images, level)


def brightness(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Brightness: move from (or towards) black."""
    return _enhance(torch.zeros_like(images), images, level)


def sharpness(images: Tensor, level: Array, sign: Array) -> Tensor:
    """Sharpness: move from (or towards) the image smoothed by a 3x3 filter, the border of one pixel kept."""
    height, width = images.shape[2:]
    pixels = images.int()
    smooth = pixels.clone()
    rows = pixels[:, :, : height - 2] + pixels[:, :, 1 : height - 1] + pixels[:, :, 2:]
    block = rows[..., : width - 2] + rows[..., 1 : width - 1] + rows[..., 2:]
    centre = pixels[:, :, 1 : height - 1, 1 : width - 1]
    # Kernel of ones with a 5 in the centre over 13, rounded; multiples of 1/13 are never half-way.
    smooth[:, :, 1 : height - 1, 1 : width - 1] = (2 * (block + 4 * centre) + 13) // 26
    return _enhance(smooth, images, level)


_Operation = Callable[[Tensor, Array, Array], Tensor]

_DEFAULT_OPERATIONS: tuple[_Operation, ...] = (
    autocontrast,
    equalize,
    posterize,
    rotate,
    solarize,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
# Not in the default set: they overlap with the corruptions that models are tested on (ImageNet-C, CIFAR-C).
_EXTRA_OPERATIONS: tuple[_Operation, ...] = (color, contrast, brightness, sharpness)
_OPERATIONS = _DEFAULT_OPERATIONS + _EXTRA_OPERATIONS

DEFAULT_OPS: tuple[str, ...] = tuple(operation.__name__ for operation in _DEFAULT_OPERATIONS)
OPS: tuple[str, ...] = tuple(operation.__name__ for operation in _OPERATIONS)


def _real(level: Array, maximum: float) -> Array:
    """Level scaled to 0..maximum."""
    return level * maximum / MAX_LEVEL


def _whole(level: Array, maximum: float) -> Array:
    """Level scaled to 0..maximum and truncated, as a float."""
    return np.trunc(_real(level, maximum))


def _per_image(values: Array, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Tensor `(N, 1, 1, 1)` on the device of the images, to broadcast over them."""
    return torch.from_numpy(values).to(images.device, dtype).view(-1, 1, 1, 1)


def _look_up(images: Tensor, table: Tensor) -> Tensor:
    """Replace each grey level by its entry in the table `(N, 3, 256)` of its image and channel, truncated."""
    return table.to(torch.uint8).view(-1).index_select(0, _entries(images)).view(images.shape)


def _histogram(images: Tensor) -> Tensor:
    """Number of pixels at each grey level, `(N, 3, 256)` int64."""
    n, channels = images.shape[:2]
    return torch.bincount(_entries(images), minlength=n * channels * 256).view(n, channels, 256)


def _entries(images: Tensor) -> Tensor:
    """Position of each pixel's grey level in a flat table of `(N, 3, 256)` entries; int32 is read fastest."""
    n, channels = images.shape[:2]
    table = torch.arange(n * channels, dtype=torch.int32, device=images.device).view(n, channels, 1, 1)
    return images.int().add_(256 * table).reshape(-1)


def _luminance(images: Tensor) -> Tensor:
    """Grey version `(N, 1, H, W)` int32 by ITU-R 601-2, in Pillow's fixed-point arithmetic."""
    red, green, blue = images.int().unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).unsqueeze(1)


def _enhance(degenerate: Tensor, images: Tensor, level: Array) -> Tensor:
    """Blend `degenerate + factor * (image - degenerate)`, in float32 like Pillow, for a factor above 0."""
    factor = _per_image(_real(level, 1.8) + 0.1, images, torch.float32)
    degenerate = degenerate.float()
    blended = degenerate + factor * (images.float() - degenerate)
    return blended.clamp_(0, 255).to(torch.uint8)
