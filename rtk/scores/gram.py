"""Gram matrices of feature maps: are the correlations between channels those of the predicted class?

Gram looks at the maps of many layers (`rtk.models.maps`), far too much to keep for every image. They are
reduced to statistics while the network runs, and only bounds of these for each class are kept. So Gram is a
score of a model and images, like those by input gradients, but is fitted first.

Statistics are one row per image, (N, F): for every layer, P powers of its C_l channels, F = P * sum of C_l.

Source: Sastry & Oore, "Detecting out-of-distribution examples with Gram matrices", ICML 2020 (arXiv
1912.10512).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rtk.models.maps import forward_maps
from rtk.scores.image_fit import ImagePass, Tensors
from rtk.scores.logits import msp
from rtk.scores.score import Score

POWERS = (1, 2, 3, 4, 5)
NormalizerClasses = Literal["predicted", "labels"]


def gram(model: nn.Module, images: Tensor, tensors: Tensors) -> Tensor:
    """Minus the total normalised deviation from the bounds of the predicted class, over the MSP, (N,).

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        tensors: of the passes of `ROWS`.

    Source: Sastry & Oore, ICML 2020 (arXiv 1912.10512); layers, powers and the MSP as OpenOOD.
    """
    logits, statistics, _ = model_statistics(model, images)
    return gram_confidence(tensors, statistics, logits)


def gram_confidence(tensors: Tensors, statistics: Tensor, logits: Tensor) -> Tensor:
    """`gram` of images whose statistics (N, F) and logits (N, C) are known, (N,)."""
    deviations = layer_deviations(tensors, statistics, logits.argmax(dim=1))
    total = (deviations / tensors["normalizer"].to(deviations)).sum(dim=1)
    return -total / msp(logits.to(total))


def model_statistics(
    model: nn.Module, images: Tensor, powers: Sequence[int] = POWERS
) -> tuple[Tensor, Tensor, list[int]]:
    """Logits (N, C), statistics (N, F) of a model's maps, and the layers' shares of F."""
    with torch.no_grad():
        logits, parts = forward_maps(model, images, lambda values: layer_statistics(values, powers))
    return logits, torch.cat(parts, dim=1), [part.shape[1] for part in parts]


def layer_statistics(values: Tensor, powers: Sequence[int] = POWERS) -> Tensor:
    """Row sums of the Gram matrices of F^p, p-th root with the sign kept, (N, P * C_l).

    G_p(F)_c = sign(s) |s|^(1/p), s = sum_d sum_pixels F_c^p F_d^p. In float32 at least: they are of degree
    two in a map, and those of ordinary maps are beyond the largest float16.

    Args:
        values: the map F (N, C_l, ...) of a layer, the trailing axes being the pixels.
        powers: P exponents.
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    flat = values.reshape(*values.shape[:2], -1).to(wide)
    return torch.cat([_rooted_row_sums(flat, power) for power in powers], dim=1)


def class_bounds(statistics: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K classes present, and the least and largest statistics (K, F) of each."""
    classes, places = labels.unique(return_inverse=True)
    index = places.unsqueeze(1).expand_as(statistics)
    lower = statistics.new_full((len(classes), statistics.shape[1]), torch.inf)
    upper = torch.full_like(lower, -torch.inf)
    lower.scatter_reduce_(0, index, statistics, "amin")
    upper.scatter_reduce_(0, index, statistics, "amax")
    return classes, lower, upper


def bounds_of_batch(model: nn.Module, images: Tensor, labels: Tensor, fitted: Tensors) -> Tensors:
    """Bounds of the classes in a batch of training images, the layers' shares of F, and C."""
    logits, statistics, sizes = model_statistics(model, images)
    classes, lower, upper = class_bounds(statistics, labels)
    about = {"sizes": torch.tensor(sizes), "num_classes": torch.tensor(logits.shape[1])}
    return {"classes": classes, "lower": lower, "upper": upper, **about}


def widen_bounds(state: Tensors, part: Tensors) -> None:
    """Take the bounds (K, F) of some classes (K,), each named once, into `lower` and `upper` (C, F)."""
    classes, lower, upper = part["classes"], part["lower"], part["upper"]
    if not state:
        state["lower"] = lower.new_full((int(part["num_classes"]), lower.shape[1]), torch.inf)
        state["upper"] = torch.full_like(state["lower"], -torch.inf)
        state["sizes"] = part["sizes"]
    state["lower"][classes] = state["lower"][classes].minimum(lower)
    state["upper"][classes] = state["upper"][classes].maximum(upper)


def close_bounds(state: Tensors) -> Tensors:
    """Bounds of every class, those of all for a class without a training image, and a normaliser of one.

    Returns:
        `lower` and `upper` (C, F); `sizes` (L,), how many statistics each layer has; `normalizer` (L,).
    """
    unseen = state["lower"][:, :1].isinf()
    lower = torch.where(unseen, state["lower"].amin(dim=0), state["lower"])
    upper = torch.where(unseen, state["upper"].amax(dim=0), state["upper"])
    normalizer = torch.ones(len(state["sizes"]), dtype=torch.float64)
    return {"lower": lower, "upper": upper, "sizes": state["sizes"], "normalizer": normalizer}


def deviations_of_batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    fitted: Tensors,
    *,
    classes: NormalizerClasses = "predicted",
) -> Tensors:
    """Deviations of held-out images from the bounds of a class each, summed.

    Args:
        model: as in `gram`.
        images: (N, 3, H, W) in [0, 1].
        labels: (N,).
        fitted: of the first pass.
        classes: "predicted", the class whose bounds the score takes: the paper divides by the deviation to be
            expected of what is scored. Or "labels", as OpenOOD: a wrong prediction then adds how far the
            image is from the bounds of its label, a deviation that no scored image has.
    """
    logits, statistics, _ = model_statistics(model, images)
    return summed_deviations(fitted, statistics, logits.argmax(dim=1) if classes == "predicted" else labels)


def summed_deviations(tensors: Tensors, statistics: Tensor, classes: Tensor) -> Tensors:
    """`total` (L,) float64 of the deviations of N images, and their `count`."""
    deviations = layer_deviations(tensors, statistics, classes)
    return {"total": deviations.double().sum(dim=0), "count": torch.tensor(len(deviations))}


def add_deviations(state: Tensors, part: Tensors) -> None:
    """Add the sums of a batch."""
    for name, value in part.items():
        state[name] = state[name] + value if name in state else value


def mean_deviations(state: Tensors) -> Tensors:
    """`normalizer` (L,): mean deviations, never zero, as a layer may have none in any held-out image."""
    return {"normalizer": (state["total"] / state["count"]).clamp_min(1e-6)}


def layer_deviations(tensors: Tensors, statistics: Tensor, classes: Tensor) -> Tensor:
    """How far statistics are outside the bounds of a class, summed over each layer, (N, L).

    An excess counts relative to the bound: (lower - g) / |lower + 1e-6| or (g - upper) / |upper + 1e-6|.

    Args:
        tensors: of the passes of `ROWS`.
        statistics: (N, F).
        classes: (N,) class whose bounds are taken.

    Raises:
        ValueError: the statistics are not those of the fit.
    """
    wanted = tensors["lower"].shape[1]
    if statistics.shape[1] != wanted:
        got = statistics.shape[1]
        raise ValueError(f"statistics: got {got} an image, wanted the {wanted} that Gram was fitted on")
    lower, upper = (tensors[name].to(statistics)[classes] for name in ("lower", "upper"))
    below = relu(lower - statistics) / (lower + 1e-6).abs()
    above = relu(statistics - upper) / (upper + 1e-6).abs()
    parts = (below + above).split(tensors["sizes"].tolist(), dim=1)
    return torch.stack([part.sum(dim=1) for part in parts], dim=1)


def _rooted_row_sums(flat: Tensor, power: int) -> Tensor:
    """Statistics (N, C) of flat maps (N, C, pixels), without forming the (C, C) matrices."""
    # Of degree two in the map, whatever the power. Scaled to at most 1, exactly, it cannot overflow.
    exponent = torch.frexp(flat.abs().amax(dim=(1, 2), keepdim=True)).exponent
    raised = torch.ldexp(flat, -exponent) ** power
    sums = (raised * raised.sum(dim=1, keepdim=True)).sum(dim=2)
    return torch.ldexp(sums.sign() * sums.abs() ** (1 / power), 2 * exponent.squeeze(2))


# First bounds of the training images, then the usual deviation of held-out images from these.
ROWS = (
    Score(
        "gram",
        gram,
        inputs="images",
        moves_pixels=False,
        passes=(
            ImagePass(bounds_of_batch, widen_bounds, close_bounds),
            ImagePass(deviations_of_batch, add_deviations, mean_deviations, rows="held_out"),
        ),
    ),
)
