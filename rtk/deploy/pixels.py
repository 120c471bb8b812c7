"""Pixels as people have them, arrays and tensors with the channels first or last, to uint8 (H, W, 3)."""

from __future__ import annotations

import numpy as np
import torch

from rtk.config.errors import ConfigError

CHANNELS = (1, 3, 4)
WANTED = "wanted pixels (H, W, 3), (3, H, W), or the same with 1 or 4 channels or (H, W)"


def to_pixels(image: np.ndarray | torch.Tensor) -> np.ndarray:
    """One image as uint8 (H, W), (H, W, 3) or (H, W, 4), which `encode_png` takes.

    Args:
        image: greyscale (H, W), or with 1, 3 or 4 channels, first or last; where both could be meant, they
            are last in an array and first in a tensor. uint8, or floating point from 0 (black) to 1.

    Raises:
        TypeError: numbers of another kind.
        ConfigError: another shape, or floating-point numbers beyond 0 to 1.
    """
    is_tensor = isinstance(image, torch.Tensor)
    pixels = _as_array(image)
    if pixels.ndim not in (2, 3) or not pixels.size:
        raise ConfigError(f"image: got shape {pixels.shape}, {WANTED}")
    return np.ascontiguousarray(_bytes(pixels if pixels.ndim == 2 else _channels_last(pixels, is_tensor)))


def _as_array(image: np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(image, np.ndarray):
        return image
    tensor = image.detach().cpu()
    return np.asarray(tensor.float() if tensor.is_floating_point() else tensor)  # NumPy has no bfloat16


def _channels_last(pixels: np.ndarray, prefer_first: bool) -> np.ndarray:
    first, last = pixels.shape[0] in CHANNELS, pixels.shape[-1] in CHANNELS
    if not (first or last):
        raise ConfigError(f"image: got shape {pixels.shape}, {WANTED}")
    ordered = np.moveaxis(pixels, 0, -1) if first and (prefer_first or not last) else pixels
    return ordered[:, :, 0] if ordered.shape[-1] == 1 else ordered


def _bytes(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise TypeError(f"image: got {pixels.dtype}, wanted uint8, or floating point from 0 to 1")
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= 1):  # NaN too
        raise ConfigError(
            f"image: got {pixels.dtype} from {low:.4g} to {high:.4g}, wanted 0 to 1: not normalised, and "
            "uint8 where it goes up to 255"
        )
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
