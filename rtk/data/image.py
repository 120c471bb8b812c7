"""Encoded image bytes to pixels and back: the single place of rtk that decodes an image.

Needs only Pillow and NumPy, so that data-loading workers import it cheaply.
"""

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# Named one by one because Pillow's full list holds formats that start other programs (EPS: Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")

# The size from which Pillow warns of a decompression bomb (a quarter GiB as RGB). Checked here, on the
# header, not by turning Pillow's warning into an error, because warning filters are global, not thread-safe.
MAX_PIXELS = 89_478_485
BAND_PIXELS = 2**22  # that are converted at a time where a conversion takes several copies
REDUCED_SIDE = 3  # least side of a JPEG that is decoded smaller, beside that of what it is resized to


# By EXIF orientation, what brings a picture upright; 1 is upright. (EXIF 2.32, tag 274)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow keeps what may hold an orientation.
_EXIF_ENTRIES = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}


class BadImageError(ValueError):
    """An image cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class ImageInfo:
    """What an image's header says.

    Attributes:
        width: width in pixels, as stored.
        height: height in pixels, as stored.
        mode: Pillow's mode, such as `RGB`, `L` or `P`.
        encoding: file format, such as `PNG`.
        orientation: of `orientation`.
    """

    width: int
    height: int
    mode: str
    encoding: str
    orientation: int = 1


def read_info(image: Image.Image) -> ImageInfo:
    """Return size, mode, encoding and orientation of an opened image, without decoding its pixels.

    The orientation of a PNG that holds it behind its pixels is seen once these are decoded.
    """
    encoding = image.format or "unknown"
    return ImageInfo(image.width, image.height, image.mode, encoding, orientation(image))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image that is still to be applied.

    Pillow applies that of a TIFF itself, when it decodes the pixels.

    Returns:
        A key of `TURNS`, or 1 where the image is upright, says nothing, or nothing that makes sense.
    """
    if image.format == "PNG" and not _EXIF_ENTRIES.intersection(image.info):
        return 1  # Pillow would decode the pixels to look behind them
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata is no broken picture, and raises many types
        return 1
    return found if found in TURNS else 1


def open_image(data: bytes) -> Image.Image:
    """Read the header of an encoded image; the pixels are not decoded yet.

    Args:
        data: bytes of a file in one of `FORMATS`.

    Raises:
        BadImageError: the data is empty, in no known format, or more than `MAX_PIXELS` pixels large.
    """
    if not data:
        raise BadImageError("empty (0 bytes)")
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadImageError(f"no image in a supported format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"decompression bomb, limit {MAX_PIXELS} pixels: {error}") from error
    except Exception as error:  # Pillow's readers raise many types on broken data
        raise BadImageError(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        raise BadImageError(f"decompression bomb, limit {MAX_PIXELS} pixels: image is {size}")
    return image


def to_rgb(image: Image.Image, exif: str = "apply") -> Image.Image:
    """Decode an opened image fully and convert it to 8-bit RGB.

    16-bit greyscale is scaled by 255 / 65535; transparent images are laid on white, which is what a viewer
    shows (dropping the alpha channel would reveal colours nobody was meant to see).

    Args:
        image: of `open_image`.
        exif: `apply` turns it as its EXIF orientation says: phones store most pictures turned. `ignore`
            leaves it as it is stored, as torchvision and timm do.

    Raises:
        BadImageError: the image is truncated or corrupt, or its pixels have no defined brightness range.
    """
    rgb = _converted(image)
    turn = TURNS.get(orientation(image)) if exif == "apply" else None
    return rgb if turn is None else rgb.transpose(turn)


def reduce_jpeg(image: Image.Image, side: int) -> None:
    """Have an opened JPEG decoded at a half, a quarter or an eighth of its size, where that is large enough.

    libjpeg then leaves out the fine waves of each block, which an antialiased resize would average away: it
    takes a fraction of the time, and pixels of the resized image differ by a few grey levels at most. Other
    images stay as they are.

    Args:
        image: of `open_image`.
        side: shorter side in pixels that it will be resized to; what is decoded has three times that or more.
    """
    for parts in (8, 4, 2) if image.format in ("JPEG", "MPO") else ():
        # Sides that are no multiples would be rounded up, and the picture stretched by part of a pixel.
        whole = image.width % parts == image.height % parts == 0
        if whole and min(image.size) // parts >= REDUCED_SIDE * side:
            image.draft(None, (image.width // parts, image.height // parts))
            return


def _converted(image: Image.Image) -> Image.Image:
    try:
        image.load()
        if image.mode.startswith(("I", "F")):
            return _wide_to_rgb(image)
        if image.has_transparency_data:
            return _on_white(image)
        return image.convert("RGB")
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on broken data
        raise BadImageError(_reason(error)) from error


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white, some rows at a time: four copies of the largest are over 1 GiB."""
    rgb = Image.new("RGB", image.size)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        rgb.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), (0, top))
    return rgb


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    """Convert greyscale of more than 8 bits (Pillow modes `I;16*` and `I`) to RGB."""
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise BadImageError(f"mode {image.mode} with values beyond 16 bits: no defined brightness range")
    # 65535 = 255 * 257, so this is rounding to the nearest of the 256 levels.
    levels, rows = np.empty(pixels.shape, np.uint8), max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        levels[top : top + rows] = (pixels[top : top + rows].astype(np.uint32) + 128) // 257
    return Image.fromarray(levels).convert("RGB")


def resize_and_crop(
    image: Image.Image, size: int, crop_share: float = 1.0, interpolation: str = "bilinear"
) -> Image.Image:
    """Bring the shorter side to `size / crop_share` (antialiased), then crop the centre to size x size.

    Sizes and offsets are rounded as in torchvision's `Resize` and `CenterCrop`, and as in timm's evaluation
    transform, whose `crop_pct` is `crop_share`.

    Args:
        image: the image.
        size: side of the result in pixels.
        crop_share: share of the resized shorter side that the crop keeps, in (0, 1].
        interpolation: `bilinear` or `bicubic`.

    Where the resized whole would be a decompression bomb, a narrow image is cut to its middle first.
    """
    shorter, longer = min(image.size), max(image.size)
    resized = math.floor(size / crop_share)
    width, height = (int(resized * side / shorter) for side in image.size)
    if width * height > MAX_PIXELS and longer > 4 * shorter:
        left, top = ((side - min(side, 4 * shorter)) // 2 for side in image.size)
        middle = image.crop((left, top, image.width - left, image.height - top))
        return resize_and_crop(middle, size, crop_share, interpolation)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    if width == height == size:
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode_rgb(
    data: bytes,
    size: int | None,
    crop_share: float = 1.0,
    interpolation: str = "bilinear",
    exif: str = "apply",
    jpeg: str = "full",
) -> np.ndarray:
    """Decode an image to 8-bit RGB.

    Args:
        data: encoded bytes, in one of `FORMATS`.
        size: side of the square result in pixels (see `resize_and_crop`); None keeps the image's own size.
        crop_share: see `resize_and_crop`.
        interpolation: see `resize_and_crop`.
        exif: see `to_rgb`.
        jpeg: `reduced`: see `reduce_jpeg`; `full`: decode all of its pixels.

    Returns:
        uint8 (H, W, 3), writable.

    Raises:
        BadImageError: the image cannot be decoded; the message says why.
    """
    image = open_image(data)
    if size is not None and jpeg == "reduced":
        reduce_jpeg(image, math.floor(size / crop_share))
    image = to_rgb(image, exif)
    if size is not None:
        image = resize_and_crop(image, size, crop_share, interpolation)
    return np.array(image)


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 pixels, (H, W) greyscale or (H, W, 3) RGB, as PNG."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    """Return a one-line reason; the type stands in where the error has no text."""
    return " ".join(str(error).split()) or type(error).__name__
