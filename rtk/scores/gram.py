"""Gram matrices of feature maps: are the correlations between channels those of the predicted class?

Gram looks at the feature maps of many layers, far too much to keep for every image. It therefore is not a row
of `SCORES`: fit and score it on batches as the network produces them. The maps of a batch are a list with one
tensor (N, C_l, ...) a layer, the trailing axes being the pixels; OpenOOD takes the output of every Conv2d and
ReLU.

Source: Sastry & Oore, "Detecting out-of-distribution examples with Gram matrices", ICML 2020 (arXiv
1912.12510).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu

from rtk.scores.logits import msp

POWERS = (1, 2, 3, 4, 5)

Maps = Sequence[Tensor]


def gram_statistics(maps: Maps, powers: Sequence[int] = POWERS) -> list[Tensor]:
    """Row sums of the Gram matrices of F^p, p-th root with the sign kept.

    G_p(F)_c = sign(s) |s|^(1/p), s = sum_d sum_pixels F_c^p F_d^p.

    Args:
        maps: a tensor (N, C_l, ...) for each layer.
        powers: P exponents.

    Returns:
        A tensor (N, P, C_l) for each layer.
    """
    return [
        torch.stack([_rooted_row_sums(layer.reshape(*layer.shape[:2], -1), p) for p in powers], dim=1)
        for layer in maps
    ]


def fit_gram(
    train: Iterable[tuple[Maps, Tensor]],
    held_out: Iterable[tuple[Maps, Tensor]] | None,
    num_classes: int,
    powers: Sequence[int] = POWERS,
) -> dict[str, Tensor]:
    """Bounds of the Gram statistics for each class and channel, and the usual deviation of each layer.

    Both streams are read once, batch by batch. A class without a training image has the bounds of all.

    Args:
        train: batches (maps, labels (N,)).
        held_out: batches (maps, predicted classes (N,)) of other in-distribution images; OpenOOD holds out
            10 % of the training images of each class. None: layers are not normalised.
        num_classes: C.
        powers: P exponents.

    Returns:
        `powers` (P,); `lower_l` and `upper_l` (C, P, C_l) for each layer l; `normalizer` (L,).

    Raises:
        ValueError: a stream has no batch.
    """
    state = {"powers": torch.tensor(powers), **_fit_bounds(train, num_classes, powers)}
    ones = torch.ones(_num_layers(state), dtype=torch.float64)
    return {**state, "normalizer": ones if held_out is None else _mean_deviations(state, held_out)}


def gram(state: dict[str, Tensor], maps: Maps, logits: Tensor) -> Tensor:
    """Minus the total normalised deviation from the bounds of the predicted class, over the MSP, (N,).

    Args:
        state: of `fit_gram`.
        maps: a tensor (N, C_l, ...) for each layer.
        logits: (N, C).
    """
    deviations = layer_deviations(state, maps, logits.argmax(dim=1))
    total = (deviations / state["normalizer"].to(deviations)).sum(dim=1)
    return -total / msp(logits).to(total)


def layer_deviations(state: dict[str, Tensor], maps: Maps, classes: Tensor) -> Tensor:
    """How far the statistics are outside the bounds of a class, summed over powers and channels.

    An excess counts relative to the bound: (lower - g) / |lower + 1e-6| or (g - upper) / |upper + 1e-6|.

    Args:
        state: of `fit_gram`.
        maps: a tensor (N, C_l, ...) for each layer.
        classes: (N,) class whose bounds are taken.

    Returns:
        (N, L).

    Raises:
        ValueError: the number of layers is not that of the fit.
    """
    if len(maps) != _num_layers(state):
        raise ValueError(
            f"maps: got {len(maps)} layers, wanted the {_num_layers(state)} that Gram was fitted on"
        )
    return torch.stack(
        [
            _deviation(
                values,
                state[f"lower_{layer}"].to(values)[classes],
                state[f"upper_{layer}"].to(values)[classes],
            )
            for layer, values in enumerate(gram_statistics(maps, state["powers"].tolist()))
        ],
        dim=1,
    )


def _rooted_row_sums(flat: Tensor, power: int) -> Tensor:
    """Statistics (N, C) of flat maps (N, C, pixels), without forming the (C, C) matrices."""
    raised = flat**power
    sums = (raised * raised.sum(dim=1, keepdim=True)).sum(dim=2)
    return sums.sign() * sums.abs() ** (1 / power)


def _deviation(values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    below = relu(lower - values) / (lower + 1e-6).abs()
    above = relu(values - upper) / (upper + 1e-6).abs()
    return (below + above).sum(dim=(1, 2))


def _fit_bounds(
    batches: Iterable[tuple[Maps, Tensor]], num_classes: int, powers: Sequence[int]
) -> dict[str, Tensor]:
    bounds: dict[str, Tensor] = {}
    for maps, labels in batches:
        for layer, values in enumerate(gram_statistics(maps, powers)):
            shape = (num_classes, *values.shape[1:])
            lower = bounds.setdefault(f"lower_{layer}", values.new_full(shape, torch.inf))
            upper = bounds.setdefault(f"upper_{layer}", values.new_full(shape, -torch.inf))
            index = labels.view(-1, 1, 1).expand_as(values)
            lower.scatter_reduce_(0, index, values, "amin")
            upper.scatter_reduce_(0, index, values, "amax")
    if not bounds:
        raise ValueError("train: got no batch, wanted at least one")
    for name, bound in bounds.items():
        overall = bound.amin(dim=0) if name.startswith("lower") else bound.amax(dim=0)
        bounds[name] = torch.where(bound.isinf(), overall, bound)
    return bounds


def _mean_deviations(state: dict[str, Tensor], batches: Iterable[tuple[Maps, Tensor]]) -> Tensor:
    total, count = torch.zeros(_num_layers(state), dtype=torch.float64), 0
    for maps, classes in batches:
        total += layer_deviations(state, maps, classes).double().sum(dim=0).cpu()
        count += len(classes)
    if count == 0:
        raise ValueError("held_out: got no batch, wanted at least one; None switches the normaliser off")
    # A layer in which no held-out image leaves its bounds must not divide by zero.
    return (total / count).clamp_min(1e-6)


def _num_layers(state: dict[str, Tensor]) -> int:
    return sum(name.startswith("lower_") for name in state)
