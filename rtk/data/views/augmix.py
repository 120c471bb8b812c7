"""AugMix on whole batches (Hendrycks et al., ICLR 2020)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.data.views.augment import to_float
from rtk.data.views.draws import beta, check_draws, dirichlet, randint
from rtk.data.views.image_ops import OP_DRAWS, apply_ops, check_images, draw_ops


@dataclass(frozen=True)
class AugMixDraws:
    """Every random choice of AugMix for N images, W chains and at most D operations a chain. Arrays on the
    host.

    Attributes:
        op: `(N, W, D)` operations, positions in `image_ops.OPS`; -1 after the end of a chain.
        level: `(N, W, D)` their levels, 0 to 10.
        sign: `(N, W, D)` their directions, +1 or -1.
        weights: `(N, W)` weights of the chains; rows sum to 1.
        share: `(N,)` share of the augmented image in the result.
    """

    op: NDArray[np.int64]
    level: NDArray[np.float64]
    sign: NDArray[np.int64]
    weights: NDArray[np.float64]
    share: NDArray[np.float64]


def augmix_draw_count(width: int = 3, depth: int = 3) -> int:
    """Uniform numbers that an image needs for AugMix with `width` chains of at most `depth` operations."""
    return 1 + width * (2 + OP_DRAWS * depth)


def draw_augmix(
    u: NDArray[np.float64],
    severity: float = 3,
    alpha: float = 1,
    width: int = 3,
    depth: int = 3,
    all_ops: bool = False,
) -> AugMixDraws:
    """Make AugMix's random choices from uniform numbers, with the published probabilities.

    Source: AugMix, Hendrycks et al., ICLR 2020, algorithm 1.

    Args:
        u: `(N, augmix_draw_count(width, depth))` uniform draws.
        severity: highest level of an operation; levels are uniform in [0.1, severity].
        alpha: parameter of the Dirichlet distribution of the weights and of the Beta distribution of the
            share.
        width: number of chains.
        depth: highest number of operations in a chain; the number is uniform in 1..depth.
        all_ops: whether to use color, contrast, brightness and sharpness too.

    Returns:
        The draws.

    Raises:
        ValueError: if `u` has another shape, or a parameter is out of range.
    """
    if width < 1 or depth < 1:
        raise ValueError(f"width, depth: got {width}, {depth}, wanted both >= 1")
    check_draws(u, len(u), augmix_draw_count(width, depth))
    share, weights, lengths, ops = np.split(u, [1, 1 + width, 1 + 2 * width], axis=1)
    op, level, sign = draw_ops(ops.reshape(len(u), width, depth, OP_DRAWS), severity, all_ops)
    beyond = np.arange(depth) > randint(lengths, depth)[..., None]
    return AugMixDraws(
        op=np.where(beyond, -1, op),
        level=level,
        sign=sign,
        weights=dirichlet(weights, alpha),
        share=beta(share[:, 0], alpha, alpha),
    )


def augmix(images: Tensor, draws: AugMixDraws) -> Tensor:
    """Mix an image with a weighted mean of chains of augmentations of itself.

    Source: AugMix, Hendrycks et al., ICLR 2020, algorithm 1 (without its consistency loss).

    Args:
        images: `(N, 3, H, W)` uint8.
        draws: the random choices, from `draw_augmix`.

    Returns:
        `(N, 3, H, W)` float32 in [0, 1].

    Raises:
        ValueError: if images and draws do not match.
    """
    check_images("images", images)
    n, width, depth = draws.op.shape
    if n != len(images):
        raise ValueError(f"draws: got those of {n} images, wanted {len(images)}")
    chains = images.repeat_interleave(width, 0)
    for step in range(depth):
        choices = (x[..., step].reshape(-1) for x in (draws.op, draws.level, draws.sign))
        chains = apply_ops(chains, *choices)
    # The shares of the image and of its chains sum to 1: one weighted sum.
    weights = torch.from_numpy(draws.weights * draws.share[:, None]).float().to(images.device)
    rest = torch.from_numpy(1 - draws.share).float().to(images.device)
    augmented = to_float(chains).view(n, width, *images.shape[1:])
    mean = (augmented * weights.view(n, width, 1, 1, 1)).sum(1)
    return mean.add_(to_float(images) * rest.view(-1, 1, 1, 1)).clamp_(0, 1)
