"""What a picture looks like, in 64 bits and a thumbnail: the same for copies in another size or encoding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image

from rtk.data.image import BadImageError, open_image, to_rgb
from rtk.runtime.environment import available_cpus

T = TypeVar("T")

SIDE = 32  # pixels that the hash is made of
LOW = 8  # frequencies kept along each side
THUMB = 16  # pixels
THUMB_BYTES = THUMB * THUMB * 3
_LEAST = 1.0  # grey levels; what is weaker is noise of the encoding, in which plain pictures would differ
_DRAFT = 2 * SIDE
_CHUNK = 64  # images in memory at a time


@dataclass(frozen=True)
class Look:
    """What one image looks like.

    Attributes:
        size: width and height in pixels, as it is shown.
        code: 64-bit perceptual hash.
        thumb: uint8 (768,), the image squeezed to 16 x 16 RGB pixels.
    """

    size: tuple[int, int]
    code: np.uint64
    thumb: np.ndarray


@dataclass(frozen=True)
class Fingerprints:
    """Looks of N images; 776 bytes each.

    Attributes:
        codes: uint64 (N,).
        thumbs: uint8 (N, 768).
    """

    codes: np.ndarray
    thumbs: np.ndarray

    @classmethod
    def for_images(cls, count: int) -> Fingerprints:
        """Room for those of so many images."""
        return cls(np.zeros(count, np.uint64), np.zeros((count, THUMB_BYTES), np.uint8))

    def put(self, row: int, look: Look) -> None:
        """Fill in that of one image."""
        self.codes[row], self.thumbs[row] = look.code, look.thumb

    def take(self, rows: np.ndarray) -> Fingerprints:
        """Those of some images."""
        return Fingerprints(self.codes[rows], self.thumbs[rows])


def look_at_each(items: Iterable[T], encoded: Callable[[T], bytes]) -> Iterator[tuple[T, Look | str]]:
    """Look at many images, on all cores; few of them are in memory at a time.

    Args:
        items: what stands for the images.
        encoded: the bytes of the image file of one.

    Yields:
        Each item, in order, with its look, or the reason why it cannot be decoded.
    """

    def look(item: T) -> Look | str:
        try:
            return look_at(encoded(item))
        except (BadImageError, OSError) as error:
            return str(error)

    remaining = iter(items)
    with ThreadPoolExecutor(available_cpus()) as pool:
        while chunk := list(islice(remaining, _CHUNK)):
            yield from zip(chunk, pool.map(look, chunk), strict=True)


def look_at(data: bytes) -> Look:
    """Decode an image, JPEG at an eighth of its size where that is enough, and take its fingerprint.

    Raises:
        BadImageError: it cannot be decoded.
    """
    image = open_image(data)
    stored = image.size
    try:
        image.draft("RGB", (_DRAFT, _DRAFT))  # nothing for other formats than JPEG
    except Exception as error:  # Pillow's readers raise many types on broken data
        raise BadImageError(str(error)) from error
    decoded = to_rgb(image)
    is_turned = (decoded.width < decoded.height) != (stored[0] < stored[1])  # by EXIF
    squeezed = decoded.resize((SIDE, SIDE), Image.Resampling.BOX)
    thumb = np.asarray(squeezed).reshape(THUMB, 2, THUMB, 2, 3).mean((1, 3)).round().astype(np.uint8)
    size = stored[::-1] if is_turned else stored
    return Look(size, perceptual_hash(np.asarray(squeezed.convert("L"))), thumb.reshape(-1))


def perceptual_hash(grey: np.ndarray) -> np.uint64:
    """Signs of the lowest frequencies of a picture's cosine transform.

    The hash by the cosine transform of Zauner, "Implementation and benchmarking of perceptual image hash
    functions" (2010), with two changes: the mean is left out (its bit would be the same for nearly all
    pictures), and a bit is set above `_LEAST`, not above the median, so that plain areas give no random bits.

    Args:
        grey: (32, 32), levels 0 to 255.

    Returns:
        64 bits: of the frequencies (0..7, 0..7), but of (0, 8) in the place of the mean.
    """
    frequencies = _COSINES @ grey.astype(np.float64) @ _COSINES.T
    low = frequencies[:LOW, :LOW].copy()
    low[0, 0] = frequencies[0, LOW]
    return np.packbits(low.ravel() > _LEAST).view(">u8")[0].astype(np.uint64)


def _cosines() -> np.ndarray:
    """The lowest waves of the cosine transform, (9, 32); they give amplitudes in grey levels."""
    frequency, place = np.arange(LOW + 1)[:, None], np.arange(SIDE)[None]
    waves = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE))
    return waves * np.sqrt(2) / SIDE


_COSINES = _cosines()
