"""A contact sheet of the views that a recipe trains on: a row for each view, a column for each image."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.image import BadImageError, decode_rgb
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import ImageDataset, open_dataset, read_rows
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import MIXING_MARGIN, View, ViewMaker
from rtk.objectives import TERMS, ViewKind, view_makers

OTHERS = 32  # mixing pictures, and outliers, to choose from
_CAPTION_WIDTH, _GAP, _CELL = 80, 4, 96  # pixels


def view_sheet(config: RunConfig, count: int = 8, epoch: int = 0) -> Image.Image:
    """Draw the views of the first images that can be decoded, with the recipe's settings and seed.

    Args:
        config: its `data.train`, `data.mixing`, `data.outliers` and objective are used; a view is drawn
            whatever the weight of its term, one that needs outliers only where there are any.
        count: number of images; mixing partners come from among them.
        epoch: whose draws are shown.

    Returns:
        RGB image, a labelled row for the view of each term; of several versions the first augmented one.

    Raises:
        ValueError: a data set is missing, or none of its images can be decoded.
    """
    side, data = config.data.image_size, config.data
    dataset = _open(data.train, "data.train")
    train = _decode(dataset, data.decoded_side, count, data.exif)
    mixing = _mixing_pictures(config, round(side * MIXING_MARGIN))
    outliers = None
    if data.outliers is not None:
        outliers = _decode(_open(data.outliers, "data.outliers"), data.decoded_side, OTHERS, data.exif).images
    maker = ViewMaker(
        train,
        mixing,
        max(len(dataset.classes), int(train.labels.max()) + 1),
        data,
        view_makers(config.objective),
        config.seed,
        outliers,
    )
    terms = [term for term in TERMS.values() if outliers is not None or "outliers" not in term.block.needs]
    kinds = [term.view for term in terms]
    views = maker(np.arange(len(train)), epoch, {kind.name for kind in kinds})
    return _draw({kind.caption: _shown(views[kind.name], kind) for kind in kinds})


def _shown(view: View, kind: ViewKind) -> torch.Tensor:
    """Images (n, 3, H, W) of a view; of several versions, the first after the clean one."""
    return view.images if kind.versions == 1 else view.images[:, 1]


def _open(path: str, key: str) -> ImageDataset:
    try:
        return open_dataset(resolve_path(path), need_classes=False)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _mixing_pictures(config: RunConfig, side: int) -> np.ndarray:
    if config.data.mixing is None:
        return render_fractals(OTHERS, side, config.seed)
    return _decode(_open(config.data.mixing, "data.mixing"), side, OTHERS, config.data.exif).images


def _decode(dataset: ImageDataset, side: int, count: int, exif: str) -> ImageArrays:
    """The first `count` images that can be decoded."""
    images, labels, ids = [], [], []
    for row in islice(read_rows(dataset), 4 * count):
        try:
            images.append(decode_rgb(row.image, side, exif=exif).transpose(2, 0, 1))
        except BadImageError:
            continue
        labels.append(row.label)
        ids.append(row.number if row.sample_id is None else row.sample_id)
        if len(images) == count:
            break
    if not images:
        raise ValueError(f"{dataset.path}: none of the first {4 * count} images can be decoded")
    return ImageArrays(np.stack(images), np.array(labels), np.array(ids))


def _draw(views: dict[str, torch.Tensor]) -> Image.Image:
    """Grid of views (n, 3, H, W) by caption, enlarged to cells of at least 96 pixels by whole factors."""
    count, _, height, width = next(iter(views.values())).shape
    factor = max(1, -(-_CELL // max(height, width)))
    cell_height, cell_width = height * factor + _GAP, width * factor + _GAP
    sheet = Image.new("RGB", (_CAPTION_WIDTH + count * cell_width, len(views) * cell_height), "white")
    font = ImageFont.load_default(size=16)
    for row, (caption, images) in enumerate(views.items()):
        middle = (8, row * cell_height + cell_height // 2)
        ImageDraw.Draw(sheet).text(middle, caption, fill="black", font=font, anchor="lm")
        pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for column, picture in enumerate(pixels):
            cell = Image.fromarray(picture).resize(
                (width * factor, height * factor), Image.Resampling.NEAREST
            )
            sheet.paste(cell, (_CAPTION_WIDTH + column * cell_width, row * cell_height + _GAP // 2))
    return sheet
