"""A contact sheet of the views that a recipe trains on: a row for each view, a column for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from rtk.config.data import DataConfig
from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.image import BadImageError, decode_rgb
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import ImageDataset, open_dataset, read_rows
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import View, ViewMaker
from rtk.objectives import CLEAN, TERMS, Term, ViewKind, view_makers

OTHERS = 32  # mixing pictures, and outliers, to choose from
_CAPTION_WIDTH, _GAP, _CELL, _LINE = 80, 4, 96, 14  # pixels


class Row(NamedTuple):
    """A row of the sheet: images (n, 3, H, W), and for each the lines below it."""

    images: torch.Tensor
    texts: list[list[str]]


def view_sheet(config: RunConfig, count: int = 8, epoch: int = 0, order: Sequence[str] = ()) -> Image.Image:
    """Draw the views of the first images that can be decoded, with the recipe's settings and seed.

    Args:
        config: its `data.train`, `data.mixing`, `data.outliers` and objective are used; a view is drawn
            whatever the weight of its term, one that needs outliers only where there are any.
        count: number of images; mixing partners come from among them.
        epoch: whose draws are shown.
        order: names of terms, as the recipe has them; the others follow, those of weight 0 at the end.

    Returns:
        RGB image, a labelled row for the view of each term; of several versions the first augmented one.
        Below each tile stands its class, and what it was mixed with in which shares (lambda and the rest).

    Raises:
        ValueError: a data set is missing, or none of its images can be decoded.
    """
    data = config.data
    dataset = _open(data.train, "data.train")
    train = _decode(dataset, data.decoded_side, count, data)
    mixing = _mixing_pictures(config, data.mixing_side)
    outliers = None
    if data.outliers is not None:
        outliers = _decode(_open(data.outliers, "data.outliers"), data.decoded_side, OTHERS, data).images
    # Each image is a class of its own here, so that the targets tell which one it was mixed with; one more is
    # nobody's, and has a share of what is spread over all, or all that is rejected.
    own = replace(train, labels=np.arange(len(train)))
    makers = view_makers(config.objective)
    maker = ViewMaker(own, mixing, len(train) + 1, data, makers, config.seed, outliers)
    terms = [term for term in TERMS.values() if outliers is not None or "outliers" not in term.block.needs]
    kinds = [term.view for term in sorted(terms, key=lambda term: _place(term, config, order))]
    views = maker(np.arange(len(train)), epoch, {kind.name for kind in kinds})
    names = [_class_name(dataset.classes, label) for label in train.labels.tolist()]
    return _draw({_caption(kind, config): _row(views[kind.name], kind, names) for kind in kinds})


def _place(term: Term, config: RunConfig, order: Sequence[str]) -> tuple[bool, bool, int]:
    """The clean view first, then those that are trained on, in the recipe's order."""
    named = order.index(term.name) if term.name in order else len(order)
    return term.view is not CLEAN, term.name not in config.objective.active(), named


def _caption(kind: ViewKind, config: RunConfig) -> str:
    """Name of a row; whether no term looks at it."""
    active = {TERMS[name].view.name for name in config.objective.active()}
    return kind.caption if kind.name in active else f"{kind.caption}\n(off)"


def _class_name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else str(label)


def _row(view: View, kind: ViewKind, names: Sequence[str]) -> Row:
    targets = view.targets.tolist()
    return Row(
        _shown(view, kind), [_tile_text(column, targets[column], names) for column in range(len(names))]
    )


def _tile_text(column: int, target: int | Sequence[float], names: Sequence[str]) -> list[str]:
    """What a tile is: its class, and where it was mixed, in which shares with which."""
    if not isinstance(target, Sequence):
        return [names[column]]
    if target[-1] > 0:
        share = target[column] - min(target)
        if not share:
            return ["outlier"]
        return [f"{share:.2f} {names[column]}", f"{1 - share:.2f} outlier"]
    others = [other for other, share in enumerate(target) if share > 0 and other != column]
    return [f"{target[place]:.2f} {name}" for place in [column, *others] for name in [names[place]]]


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
    return _decode(_open(config.data.mixing, "data.mixing"), side, OTHERS, config.data).images


def _decode(dataset: ImageDataset, side: int, count: int, data: DataConfig) -> ImageArrays:
    """The first `count` images that can be decoded."""
    images, labels, ids = [], [], []
    for row in islice(read_rows(dataset), 4 * count):
        try:
            images.append(decode_rgb(row.image, side, exif=data.exif, jpeg=data.jpeg).transpose(2, 0, 1))
        except BadImageError:
            continue
        labels.append(row.label)
        ids.append(row.number if row.sample_id is None else row.sample_id)
        if len(images) == count:
            break
    if not images:
        raise ValueError(f"{dataset.path}: none of the first {4 * count} images can be decoded")
    return ImageArrays(np.stack(images), np.array(labels), np.array(ids))


def _draw(rows: dict[str, Row]) -> Image.Image:
    """Grid of rows by caption; pictures are enlarged to at least 96 pixels by whole factors."""
    count, _, height, width = next(iter(rows.values())).images.shape
    factor = max(1, -(-_CELL // max(height, width)))
    size = (width * factor, height * factor)
    heights = [size[1] + _GAP + _LINE * max(map(len, row.texts)) for row in rows.values()]
    sheet = Image.new("RGB", (_CAPTION_WIDTH + count * (size[0] + _GAP), sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), _GAP // 2
    for (caption, row), row_height in zip(rows.items(), heights, strict=True):
        middle = (8, top + size[1] // 2)
        pen.text(middle, caption, fill="black", font=ImageFont.load_default(size=16), anchor="lm")
        pixels = (row.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for column, (picture, texts) in enumerate(zip(pixels, row.texts, strict=True)):
            left = _CAPTION_WIDTH + column * (size[0] + _GAP)
            sheet.paste(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST), (left, top))
            for number, text in enumerate(texts):
                _write(pen, (left, top + size[1] + number * _LINE), text, size[0])
        top += row_height
    return sheet


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, width: int) -> None:
    """A line below a tile, cut off where it is wider than the tile."""
    font = ImageFont.load_default(size=12)
    cut = text
    while font.getlength(cut) > width and len(cut) > 1:
        cut = f"{cut.rstrip('…')[:-1]}…"
    pen.text(corner, cut, fill="black", font=font)
