"""Any score of the logits, averaged over views of an image (TTA) or over thinned-out heads (MC dropout)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rtk.models.parts import head_weights, watched_features
from rtk.scores import logits as of_logits
from rtk.scores.gradients import forward
from rtk.scores.hyperparameters import Limit, PositiveInt, Seed, between
from rtk.scores.score import Score

_SCORES = {row.name: row.score for row in of_logits.ROWS}
LogitScore = Annotated[str, Limit(f"one of {', '.join(_SCORES)}", lambda value: value in _SCORES)]
Views = Literal["flip", "shift", "flip_shift"]


def tta(
    model: nn.Module,
    images: Tensor,
    *,
    score: LogitScore = "msp",
    views: Views = "flip",
    pixels: PositiveInt = 2,
) -> Tensor:
    """Test-time augmentation: the mean of a score of the logits over an image and its views.

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        score: a score of the logits, with its defaults.
        views: "flip", the mirror image; "shift", the image moved to four sides, its edge repeated; or both,
            each of the five also mirrored.
        pixels: how far it is moved, less than H and W.

    Source: Wang et al., "Aleatoric uncertainty estimation with test-time augmentation", Neurocomputing 2019
    (arXiv 1807.07356).
    """
    measure = _SCORES[score]
    found = [measure(forward(model, view)) for view in _views(images, views, pixels)]
    return torch.stack(found).mean(dim=0)


def mc_dropout(
    model: nn.Module,
    images: Tensor,
    *,
    score: LogitScore = "msp",
    rate: Annotated[float, between(0, 1, "[)")] = 0.2,
    passes: PositiveInt = 20,
    seed: Seed = 0,
) -> Tensor:
    """Monte-Carlo dropout: the mean of a score of the logits over passes that drop features at random.

    All images see the same masks, so that the score of one does not depend on those beside it. It needs one
    forward pass of the network: what is dropped lies behind it.

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        score: a score of the logits, with its defaults.
        rate: share of the features that is dropped; the others are divided by one minus it.
        passes: number of masks.
        seed: they follow from it.

    Source: Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep
    learning", ICML 2016 (arXiv 1506.02142), with dropout before the head.
    """
    with watched_features(model) as found:
        forward(model, images)
    features, measure = found[0], _SCORES[score]
    weight, bias = (part.to(features) for part in head_weights(model))
    drawn = torch.rand(passes, features.shape[1], generator=torch.Generator().manual_seed(seed))
    masks = ((drawn >= rate) / (1 - rate)).to(features)
    return torch.stack([measure(torch.addmm(bias, features * mask, weight.T)) for mask in masks]).mean(dim=0)


def _views(images: Tensor, views: Views, pixels: int) -> Iterator[Tensor]:
    shifted = [images]
    if views != "flip":
        height, width = images.shape[2:]
        padded = pad(images, (pixels,) * 4, mode="replicate")
        corners = ((0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels))
        shifted += [padded[..., top : top + height, left : left + width] for top, left in corners]
    yield from shifted
    if views != "shift":
        yield from (view.flip(3) for view in shifted)


ROWS = (
    Score("tta", tta, inputs="images", moves_pixels=False),
    Score("mc_dropout", mc_dropout, inputs="images", moves_pixels=False),
)
