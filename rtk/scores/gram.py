"""Gram matrices of feature maps: are the correlations between channels those of the predicted class?

Gram looks at the maps of many layers (`rtk.models.maps`), far too much to keep for every image. They are
reduced to statistics while the network runs, and only bounds of these for each class are kept. So Gram is a
score of a model and images, like those by input gradients, but is fitted first.

Statistics are one row an image, (N, F): for every layer, P powers of its C_l channels, F = P * sum of C_l.

Source: Sastry & Oore, "Detecting out-of-distribution examples with Gram matrices", ICML 2020 (arXiv
1912.10512).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rtk.models.maps import forward_maps
from rtk.scores.logits import msp

POWERS = (1, 2, 3, 4, 5)


def gram(model: nn.Module, images: Tensor, tensors: dict[str, Tensor]) -> Tensor:
    """Minus the total normalised deviation from the bounds of the predicted class, over the MSP, (N,).

    Args:
        model: in evaluation mode, from images to logits.
        images: (N, 3, H, W) in [0, 1].
        tensors: of `fit_gram`.

    Source: Sastry & Oore, ICML 2020 (arXiv 1912.10512); layers, powers and the MSP as OpenOOD.
    """
    logits, statistics, _ = model_statistics(model, images)
    return gram_confidence(tensors, statistics, logits)


def gram_confidence(tensors: dict[str, Tensor], statistics: Tensor, logits: Tensor) -> Tensor:
    """`gram` of images whose statistics (N, F) and logits (N, C) are known, (N,)."""
    deviations = layer_deviations(tensors, statistics, logits.argmax(dim=1))
    total = (deviations / tensors["normalizer"].to(deviations)).sum(dim=1)
    return -total / msp(logits).to(total)


def fit_gram(
    train: Iterable[tuple[Tensor, Tensor]],
    held_out: Iterable[tuple[Tensor, Tensor]] | None,
    num_classes: int,
    sizes: Sequence[int],
) -> dict[str, Tensor]:
    """Bounds of the statistics for each class, and the usual deviation of each layer.

    Both streams are read once, batch by batch. A class without a training image has the bounds of all.

    Args:
        train: batches (statistics (N, F), labels (N,)), or parts of `class_bounds` in their place.
        held_out: batches (statistics (N, F), predicted classes (N,)) of in-distribution images that are not
            in `train`. None: layers are not normalised.
        num_classes: C.
        sizes: how many statistics each of the L layers has; they sum to F.

    Returns:
        `lower` and `upper` (C, F); `sizes` (L,); `normalizer` (L,).

    Raises:
        ValueError: a stream has no batch.
    """
    state: dict[str, Tensor] = {}
    for statistics, labels in train:
        widen_bounds(state, num_classes, *class_bounds(statistics, labels))
    if not state:
        raise ValueError("train: got no batch, wanted at least one")
    close_bounds(state, sizes)
    if held_out is not None:
        parts = [layer_deviations(state, *batch) for batch in held_out]
        if not parts:
            raise ValueError("held_out: got no batch, wanted at least one; None switches the normaliser off")
        state["normalizer"] = mean_deviations(torch.cat(parts))
    return state


def model_statistics(
    model: nn.Module, images: Tensor, powers: Sequence[int] = POWERS
) -> tuple[Tensor, Tensor, list[int]]:
    """Logits (N, C), statistics (N, F) of a model's maps, and the layers' shares of F."""
    with torch.no_grad():
        logits, parts = forward_maps(model, images, lambda values: layer_statistics(values, powers))
    return logits, torch.cat(parts, dim=1), [part.shape[1] for part in parts]


def layer_statistics(values: Tensor, powers: Sequence[int] = POWERS) -> Tensor:
    """Row sums of the Gram matrices of F^p, p-th root with the sign kept, (N, P * C_l).

    G_p(F)_c = sign(s) |s|^(1/p), s = sum_d sum_pixels F_c^p F_d^p.

    Args:
        values: the map F (N, C_l, ...) of a layer, the trailing axes being the pixels.
        powers: P exponents.
    """
    flat = values.reshape(*values.shape[:2], -1)
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


def widen_bounds(
    state: dict[str, Tensor], num_classes: int, classes: Tensor, lower: Tensor, upper: Tensor
) -> None:
    """Take bounds (K, F) of some classes (K,), each named once, into `lower` and `upper` (C, F)."""
    if not state:
        state["lower"] = lower.new_full((num_classes, lower.shape[1]), torch.inf)
        state["upper"] = torch.full_like(state["lower"], -torch.inf)
    state["lower"][classes] = state["lower"][classes].minimum(lower)
    state["upper"][classes] = state["upper"][classes].maximum(upper)


def close_bounds(state: dict[str, Tensor], sizes: Sequence[int]) -> None:
    """Give classes that were not seen the bounds of all, and a state its sizes and a normaliser of one."""
    unseen = state["lower"][:, :1].isinf()
    state["lower"] = torch.where(unseen, state["lower"].amin(dim=0), state["lower"])
    state["upper"] = torch.where(unseen, state["upper"].amax(dim=0), state["upper"])
    state["sizes"] = torch.tensor(sizes)
    state["normalizer"] = torch.ones(len(sizes), dtype=torch.float64)


def mean_deviations(deviations: Tensor) -> Tensor:
    """Mean (L,) float64 of deviations (N, L), never zero: a layer may have none in any held-out image."""
    return deviations.double().mean(dim=0).clamp_min(1e-6)


def layer_deviations(tensors: dict[str, Tensor], statistics: Tensor, classes: Tensor) -> Tensor:
    """How far statistics are outside the bounds of a class, summed over each layer, (N, L).

    An excess counts relative to the bound: (lower - g) / |lower + 1e-6| or (g - upper) / |upper + 1e-6|.

    Args:
        tensors: of `fit_gram`.
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
