"""A packaged model for notebooks and programs: images of any kind in, a table out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import ExifTags, Image

from rtk.data.image import BadImageError, encode_png, orientation, to_rgb
from rtk.deploy.packaged_model import CANDIDATES, PackagedModel
from rtk.deploy.pixels import to_pixels
from rtk.deploy.predict import Encoded, encoded_images, find_images, predict_named

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

        ```python
        import rtk

        model = rtk.load_model("runs/flowers")
        model("photo.jpg")  # a file
        model("photos")  # a folder: a row for each image below it
        table = model(["photo.jpg", "photos", "more.parquet"])
        table[table.decision == "accept"]

        from PIL import Image

        model(Image.open("photo.jpg"))

        import numpy as np

        model(np.zeros((32, 48, 3), np.uint8))  # bytes from 0 to 255, channels last
        model(np.zeros((10, 32, 48, 3), np.uint8))  # ten images

        import torch

        model(torch.rand(10, 3, 32, 48))  # fractions from 0 to 1, channels first

        encoded = open("photo.jpg", "rb").read()
        model([encoded, "photo.jpg", Image.open("photo.jpg")])  # all kinds, mixed
        ```

        Args:
            images: one image, or an iterable of them (of any length: it is read a batch at a time), each of
                any kind: a path (of an image, a folder, or a Parquet file with a column `image`); encoded
                bytes, or a file that gives them; a `PIL.Image`; pixels as an array or a tensor, uint8 or
                fractions from 0 to 1, channels first or last (`rtk.deploy.pixels.to_pixels`).

        Returns:
            One row for each image: `image` (its path, or its number among what was given), `label`,
            `confidence`, `decision` (`accept`, `likely-wrong` or `unfamiliar`), `probability`, `ood_score`,
            and `error` where it cannot be read; `candidates`, where the decision rule has sets of classes.

        Raises:
            ConfigError: a path does not exist, or pixels have another shape or range.
            TypeError: something else was given.
        """
        given = [images] if _is_one(images) else images
        rows = list(predict_named(self.packaged, _named(given)))
        extra = [CANDIDATES] * (self.packaged.rule.sets is not None)
        return pd.DataFrame(rows, columns=[*COLUMNS, *extra])

    def __repr__(self) -> str:
        origin = self.packaged.origin
        return f"LoadedModel({origin['run']}, step {origin['step']}, {len(self.packaged.classes)} classes)"


def _is_one(images: Any) -> bool:
    """Whether this is one image, not several."""
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim in (2, 3)
    return isinstance(images, str | Path | bytes | bytearray | Image.Image) or hasattr(images, "read")


def _named(images: Iterable[Any]) -> Iterator[tuple[Any, Encoded]]:
    """Every image with its path, or its number, and its encoded bytes."""
    for number, image in enumerate(images):
        if isinstance(image, str | Path):
            yield from encoded_images(find_images([str(image)]))
        else:
            yield number, _encoded(image)


def _encoded(image: Any) -> Encoded:
    """Encoded bytes of an image, or why there are none; PNG loses nothing."""
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    if hasattr(image, "read"):
        return _encoded(image.read())
    if isinstance(image, np.ndarray | torch.Tensor):
        return encode_png(to_pixels(image))
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image: got {type(image).__name__}, wanted a path, bytes, a PIL image, an array or a tensor"
        )
    try:
        return _as_png(image)
    except Exception as error:  # Pillow's decoders raise many types on broken data
        return BadImageError(str(error) or type(error).__name__)


def _as_png(image: Image.Image) -> bytes:
    """PNG of an image, with its EXIF orientation: what is done about that is for the model to say."""
    buffer, exif = BytesIO(), Image.Exif()
    encodable = to_rgb(image, exif="ignore") if image.mode in NOT_IN_PNG else image
    encodable.load()
    exif[ExifTags.Base.Orientation] = orientation(image)
    encodable.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()
