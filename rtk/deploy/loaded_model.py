"""A packaged model for notebooks and programs: images of any kind in, a table out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from rtk.data.image import encode_png, orientation, to_rgb
from rtk.deploy.packaged_model import PackagedModel
from rtk.deploy.predict import find_images, predict_files

COLUMNS = ("image", "label", "confidence", "decision", "probability", "ood_score", "error")
NOT_IN_PNG = ("CMYK", "YCbCr", "LAB", "HSV", "F")


class LoadedModel:
    """A packaged model: call it on images.

    Attributes:
        packaged: the `PackagedModel` behind it: weights, classes, preprocessing, scores, decision rule.
    """

    def __init__(self, packaged: PackagedModel) -> None:
        self.packaged = packaged

    def __call__(self, images: Any) -> pd.DataFrame:
        """Say of images what they show, and whether to trust it.

        Args:
            images: one image, or an iterable of them: a path (of an image, a folder, or a Parquet file with a
                column `image`), encoded bytes, a `PIL.Image`, or pixels uint8 (H, W, 3).

        Returns:
            One row for each image: `image` (its path, or its number), `label`, `confidence`, `decision`
            (`accept`, `likely-wrong` or `unfamiliar`), `probability`, `ood_score`, and `error` where it
            cannot be read.

        Raises:
            ConfigError: a path does not exist.
            TypeError: something else was given.
        """
        rows = list(self._rows([images] if _is_one(images) else images))
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _rows(self, images: Iterable[Any]) -> Iterator[dict[str, Any]]:
        images = list(images)
        if images and all(isinstance(image, str | Path) for image in images):
            yield from predict_files(self.packaged, find_images(map(str, images)))
            return
        predicted = self.packaged.predict(map(_encoded, images))
        yield from ({"image": number, **row} for number, row in enumerate(predicted))

    def __repr__(self) -> str:
        origin = self.packaged.origin
        return f"LoadedModel({origin['run']}, step {origin['step']}, {len(self.packaged.classes)} classes)"


def _is_one(images: Any) -> bool:
    """Whether this is one image, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | Path | bytes | Image.Image)


def _encoded(image: Any) -> bytes:
    """Encoded bytes of an image; PNG loses nothing."""
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if isinstance(image, bytes):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise TypeError(f"image: got {image.dtype} {image.shape}, wanted pixels uint8 (H, W, 3)")
        return encode_png(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"image: got {type(image).__name__}, wanted a path, bytes, a PIL image or an array")
    return _as_png(image)


def _as_png(image: Image.Image) -> bytes:
    """PNG of an image, with its EXIF orientation: what is done about that is for the model to say."""
    buffer, exif = BytesIO(), Image.Exif()
    encodable = to_rgb(image, exif="ignore") if image.mode in NOT_IN_PNG else image
    encodable.load()
    exif[ExifTags.Base.Orientation] = orientation(image)
    encodable.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
