"""A first recipe for pictures of one's own, with comments: settings that fit their size and number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rtk.config.yaml_files import dump_value

SIDES = (32, 48, 64, 96, 128, 160, 192, 224)  # multiples of 16, the patch of most transformers
SMALL = 64  # pixels; up to here the network keeps the resolution of its first layer, as for CIFAR
STEPS = 3000  # about as many as a small network takes to learn from nothing
FINE_TUNING_STEPS = 400
# They are fine-tuned with a tenth of the learning rate of a convolutional network.
TRANSFORMER = re.compile("vit|dinov3|deit|beit|swin|eva")
HELD_OUT = 0.15  # of the training images, where there is no validation set


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from.

    Attributes:
        path: as `model.weights` takes it.
        model: values of `model` that they fit, such as `name` and `width`.
    """

    path: str
    model: Mapping[str, object]


@dataclass(frozen=True)
class Pictures:
    """What a recipe is written for.

    Attributes:
        classes: their names.
        sets: path of each set by its key below `data`: `train`, and where there are any `validation`, `test`.
        rows: number of training images.
        width: smallest and largest width in pixels.
        height: likewise.
        side: shorter side in pixels of the most usual picture.
        turned: share of the training images that their EXIF orientation turns.
        pretrained: weights to start from; None: from nothing.
    """

    classes: Sequence[str]
    sets: Mapping[str, str]
    rows: int
    width: tuple[int, int]
    height: tuple[int, int]
    side: int
    turned: float = 0.0
    pretrained: Pretrained | None = None


def image_size(pictures: Pictures) -> int:
    """Side that a model should see: as many pixels as the pictures have, in steps, and not above 224."""
    return max((side for side in SIDES if side <= pictures.side), default=SIDES[0])


def batch_size(rows: int) -> int:
    """Images a step, so that an epoch has ten of them or more where there are few images."""
    return next((size for size in (64, 32, 16) if rows >= 10 * size), 8)


def epochs(pictures: Pictures) -> int:
    """Passes over the training images: few from pretrained weights, unless they are few themselves."""
    if pictures.pretrained is not None:
        return min(30, max(10, round(FINE_TUNING_STEPS * batch_size(pictures.rows) / pictures.rows)))
    return min(100, max(15, round(STEPS * batch_size(pictures.rows) / pictures.rows)))


def starter_recipe(pictures: Pictures, name: str) -> str:
    """The text of a recipe.

    Args:
        pictures: what it is for.
        name: file that it will be in, for the commands in its comments.
    """
    return (
        "\n".join([*_heading(pictures, name), *_data(pictures), *_model(pictures), *_method(pictures)]) + "\n"
    )


def _heading(pictures: Pictures, name: str) -> list[str]:
    names = ", ".join(" ".join(text.split()) for text in list(pictures.classes)[:10])
    more = ", ..." if len(pictures.classes) > 10 else ""
    (narrow, wide), (low, high) = pictures.width, pictures.height
    return [
        f"# {len(pictures.classes)} classes ({names}{more}), {pictures.rows} training images:",
        f"# {narrow} to {wide} pixels wide, {low} to {high} high; {pictures.turned:.0%} are stored turned.",
        "# Written by rtk init: a first recipe to change. What a key means: rtk recipes keys KEY",
        "#",
        f"# Look at the views:  rtk data views {name}",
        f"# Try one step:       rtk train {name} --dry-run",
        f"# Train:              rtk train {name}",
    ]


def _data(pictures: Pictures) -> list[str]:
    size = image_size(pictures)
    sets = [f"  {key}: {dump_value(path)}" for key, path in pictures.sets.items()]
    if "validation" not in pictures.sets:
        sets.append(
            f"  validation_fraction: {HELD_OUT}  # of the training images, to choose the best epoch by"
        )
    if "test" not in pictures.sets:
        sets.append("  # test: PATH  # rtk evaluate needs images that nothing is trained on (or --test PATH)")
    return [
        "data:",
        *sets,
        "  # Images of no class, {NAME: PATH, ...}, which the model should call unfamiliar:",
        "  near_ood: {}  # like those of the classes",
        "  far_ood: {}  # of anything else",
        f"  image_size: {size}  # pixels; the shorter side of most pictures has {pictures.side}",
        "  exif: apply  # turn pictures as phones note beside them",
        "  jpeg: reduced  # decode large JPEGs at 1/2, 1/4 or 1/8: much faster, hardly different",
        f"  augment: {{crop_padding: {size // 8}, flip: true}}  # flip: false where left and right differ",
    ]


def _model(pictures: Pictures) -> list[str]:
    if pictures.pretrained is None:
        small = image_size(pictures) <= SMALL
        hint = "a network for small pictures" if small else "much better: rtk init ... --weights FILE"
        return [f"model: {{name: {'resnet18' if small else 'resnet18_imagenet'}}}  # from nothing; {hint}"]
    values = {**pictures.pretrained.model, "weights": pictures.pretrained.path, "head_weights": "new"}
    # Wrong ones would cost accuracy without a word.
    hint = "  # mean, std: those that the weights were trained with, of images in [0, 1]"
    return ["model:", *(f"  {key}: {dump_value(value)}" for key, value in values.items()), hint]


def _method(pictures: Pictures) -> list[str]:
    batch, neighbours = batch_size(pictures.rows), max(5, min(50, pictures.rows // 50))
    optimizer = "{name: sgd, lr: 0.05, momentum: 0.9, weight_decay: 0.0005}"
    if pictures.pretrained is not None:
        lr = 0.0001 if TRANSFORMER.search(str(pictures.pretrained.model["name"])) else 0.001
        optimizer = f"{{name: adamw, lr: {lr}, weight_decay: 0.01}}"
    return [
        "# SURE+ (arXiv 2603.03903): mixed images, flat minima, averaged weights.",
        "objective:",
        "  regmixup: {weight: 1.0, beta: 10}",
        "  regpixmix: {weight: 1.0}",
        "sharpness: {variant: fsam, rho: 0.05, sigma: 1.0, lmbda: 0.8}",
        "averaging: {kind: ema, decay: 0.99, ramp: 50}",
        f"optimizer: {optimizer}",
        "schedule: {name: cosine, warmup: 1ep}",
        f"train: {{duration: {epochs(pictures)}ep, batch_size: {batch}}}  # workers: one for each GPU",
        "evaluate:",
        f"  knn_k: {neighbours}",
        "  # risk: 0.05  # wanted share of wrong ones among accepted images: the rule that rtk export needs",
    ]
