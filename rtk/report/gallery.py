"""A gallery for an HTML page: small pictures inside the page itself, each above a few lines of text."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from rtk.data.image import BadImageError, open_image, to_rgb

SIDE = 160  # pixels, the longest of a picture in the page: sharp at 120 also on fine screens
SHOWN = 120  # pixels on the screen
QUALITY = 82  # of the JPEGs: some 4 KB each


class Picture(NamedTuple):
    """An image and what is said below it.

    Attributes:
        image: bytes of an encoded file, or pixels, uint8 (H, W, 3) or (H, W).
        lines: the first is set in bold.
    """

    image: bytes | np.ndarray
    lines: Sequence[str]


def gallery(pictures: Sequence[Picture]) -> Markup:
    """A `<div class="gallery">`, whose style is in `page.html`; every line is escaped.

    An image that cannot be decoded leaves an empty frame with the reason as its last line.
    """
    return Markup('<div class="gallery">{}</div>').format(Markup("").join(map(_figure, pictures)))


def _figure(picture: Picture) -> Markup:
    lines = list(picture.lines)
    try:
        shown = _image(_opened(picture.image), lines[0] if lines else "")
    except BadImageError as error:
        shown = Markup('<span class="no-picture"></span>')
        lines.append(f"cannot be decoded: {error}")
    texts = [Markup("<b>{}</b>").format(line) if not n else line for n, line in enumerate(lines)]
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(shown, Markup("<br>").join(texts))


def _opened(image: bytes | np.ndarray) -> Image.Image:
    return (
        Image.fromarray(image).convert("RGB") if isinstance(image, np.ndarray) else to_rgb(open_image(image))
    )


def _image(image: Image.Image, alternative: str) -> Markup:
    """An `<img>` with the picture in it as a JPEG; pixels of an enlarged one stay sharp squares."""
    kind = "enlarged" if max(image.size) < SHOWN else ""
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    width, height = (max(1, round(side * SHOWN / max(image.size))) for side in image.size)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    template = Markup('<img src="data:image/jpeg;base64,{}" width="{}" height="{}" class="{}" alt="{}">')
    return template.format(data, width, height, kind, alternative)
