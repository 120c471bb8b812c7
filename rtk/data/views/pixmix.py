"""PixMix on whole batches (Hendrycks et al., CVPR 2022).

Draws are NumPy arrays on the host and images are tensors on any device, so that the grouping of the work
never waits for a GPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rtk.data.views.affine import cache_sized
from rtk.data.views.draws import beta as beta_quantile
from rtk.data.views.draws import check_draws, randint
from rtk.data.views.image_ops import OP_DRAWS, apply_ops_sorted, check_images, draw_ops

_ROUND_DRAWS = 5 + OP_DRAWS
LOG_255 = math.log2(255)


@dataclass(frozen=True)
class PixMixDraws:
    """Every random choice of PixMix for N images and at most K rounds. Arrays on the host.

    Attributes:
        first_op: `(N,)` operation on the image before the first round, a position in `image_ops.OPS`; -1 for
            none.
        first_level: `(N,)` its level, 0 to 10.
        first_sign: `(N,)` its direction, +1 or -1.
        rounds: `(N,)` number of mixing rounds, 0..K.
        partner_op: `(N, K)` operation that makes the partner from the image; -1: the partner is the mixing
            picture.
        partner_level: `(N, K)`.
        partner_sign: `(N, K)`.
        mix_op: `(N, K)` 0 to add, 1 to multiply.
        a: `(N, K)` weight or exponent of what has been mixed so far.
        b: `(N, K)` weight or exponent of the partner.
    """

    first_op: NDArray[np.int64]
    first_level: NDArray[np.float64]
    first_sign: NDArray[np.int64]
    rounds: NDArray[np.int64]
    partner_op: NDArray[np.int64]
    partner_level: NDArray[np.float64]
    partner_sign: NDArray[np.int64]
    mix_op: NDArray[np.int64]
    a: NDArray[np.float32]
    b: NDArray[np.float32]


def pixmix_draw_count(k: int = 4) -> int:
    """How many uniform numbers an image needs for PixMix with at most `k` rounds."""
    return 2 + OP_DRAWS + _ROUND_DRAWS * k


def draw_pixmix(
    u: NDArray[np.float64], severity: float = 3, beta: float = 3, k: int = 4, all_ops: bool = False
) -> PixMixDraws:
    """Make PixMix's random choices from uniform numbers, with the published probabilities.

    Source: PixMix, Hendrycks et al., CVPR 2022, and its `cifar.py: pixmix`, `pixmix_utils.py: get_ab`.

    Args:
        u: `(N, pixmix_draw_count(k))` uniform draws.
        severity: highest level of an operation; levels are uniform in [0.1, severity].
        beta: shape of the Beta distributions of the mixing weights; larger = nearer to the image.
        k: highest number of rounds; the number is uniform in 0..k.
        all_ops: whether to use color, contrast, brightness and sharpness too. They overlap with the
            corruptions of ImageNet-C and CIFAR-C.

    Returns:
        The draws.

    Raises:
        ValueError: if `u` has another shape, or a parameter is out of range.
    """
    if k < 0:
        raise ValueError(f"k: got {k}, wanted >= 0")
    check_draws(u, len(u), pixmix_draw_count(k))
    start, each = u[:, : 2 + OP_DRAWS], u[:, 2 + OP_DRAWS :].reshape(len(u), k, _ROUND_DRAWS)
    first_op, first_level, first_sign = draw_ops(start[:, 1:4], severity, all_ops)
    partner_op, partner_level, partner_sign = draw_ops(each[..., 1:4], severity, all_ops)
    a, b = _draw_weights(each[..., 5:], beta)
    return PixMixDraws(
        first_op=np.where(start[:, 0] < 0.5, first_op, -1),
        first_level=first_level,
        first_sign=first_sign,
        rounds=randint(start[:, 4], k + 1),
        partner_op=np.where(each[..., 0] < 0.5, partner_op, -1),
        partner_level=partner_level,
        partner_sign=partner_sign,
        mix_op=randint(each[..., 4], 2),
        a=a,
        b=b,
    )


def pixmix(images: Tensor, pictures: Tensor, draws: PixMixDraws) -> Tensor:
    """Mix images repeatedly with structurally complex pictures or with augmented versions of themselves.

    Source: PixMix, Hendrycks et al., CVPR 2022, algorithm 1. As in the original code the mixing and the
        clipping are
    inside the loop, so that `rounds` mixings are done. The result for an image does not depend on the rest of
    the batch, but for the last bit of a float: vectorised `exp2` and `log2` and their scalar remainders are
    rounded differently, which shows where 3HW is not a multiple of the vector length.

    Args:
        images: `(N, 3, H, W)` uint8.
        pictures: mixing pictures, `(N, 3, H, W)` uint8, or `(N, K, 3, H, W)` for another one in each round.
        draws: the random choices, from `draw_pixmix`.

    Returns:
        `(N, 3, H, W)` float32 in [0, 1].

    Raises:
        ValueError: if images, pictures and draws do not match.
    """
    pool, start, partner = _pixmix_pool(images, pictures, draws)
    mix_op = np.where(np.arange(draws.mix_op.shape[1]) < draws.rounds[:, None], draws.mix_op, -1)
    mixed = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    for part in cache_sized(images):
        mixed[part].copy_(_rows(pool, start[part])).div_(255)
        for step in range(draws.rounds[part].max(initial=0)):
            for operation, mix in enumerate((mix_add_, mix_multiply_)):
                chosen = part.start + np.flatnonzero(mix_op[part, step] == operation)
                if len(chosen):
                    partners = _rows(pool, partner[chosen, step])
                    a, b = (torch.from_numpy(x[chosen, step]).to(images.device) for x in (draws.a, draws.b))
                    _put(mixed, chosen, mix(_rows(mixed, chosen), partners, a, b).clamp_(0, 1))
    return mixed


def mix_add_(images: Tensor, partners: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """PixMix's additive mixing, in place and not clipped.

    Pixels are moved to [-1, 1] and back: `(a (2x - 1) + b (2y - 1) + 1) / 2 = a x + b y + (1 - a - b) / 2`.

    Args:
        images: `(N, 3, H, W)` float32 in [0, 1]; they become the result.
        partners: `(N, 3, H, W)` uint8.
        a: `(N,)` weights of the images.
        b: `(N,)` weights of the partners.
    """
    a, b = a.view(-1, 1, 1, 1), b.view(-1, 1, 1, 1)
    return images.mul_(a).addcmul_(partners.float(), b / 255).add_((1 - a - b) / 2)


def mix_multiply_(images: Tensor, partners: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """PixMix's multiplicative mixing, in place and not clipped; arguments as for `mix_add_`, `a` above 0.

    Pixels are moved to [0, 2] and back: `(2x)^a (2y)^b / 2`, with 2y at least 1e-37 since b may be negative.
    """
    a, b = a.view(-1, 1, 1, 1), b.view(-1, 1, 1, 1)
    # In logarithms, one exp2 for both powers: twice as fast as pow, and 0^a comes out as exp2(-inf) = 0.
    grey = partners.float().clamp_(min=255 * 1e-37 / 2)
    exponent = _apply_(np.log2, images).mul_(a).addcmul_(_apply_(np.log2, grey), b)
    return _apply_(np.exp2, exponent.add_(a + b * (1 - LOG_255) - 1))


def _apply_(function: np.ufunc, values: Tensor) -> Tensor:
    """A function of NumPy and torch in place: on a CPU NumPy's, whose float32 kernels are far faster."""
    if values.device.type != "cpu":
        torch_function: Callable[..., Tensor] = getattr(torch, function.__name__)
        return torch_function(values, out=values)
    with np.errstate(divide="ignore"):
        function(values.numpy(), out=values.numpy())
    return values


def _pixmix_pool(
    images: Tensor, pictures: Tensor, draws: PixMixDraws
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """All images that PixMix mixes, with every augmentation of all rounds made in one go.

    Returns:
        The pool `(P, 3, H, W)` uint8: images, pictures, augmented images. The position in it `(N,)` of the
        start of each image and `(N, K)` of the partner in each round.
    """
    n, k = draws.partner_op.shape
    each = 1 if pictures.ndim == 4 else k
    pictures = pictures if pictures.ndim == 4 else pictures.flatten(0, 1)
    _check_match(images, pictures, n, each)
    wanted = np.concatenate([draws.first_op[:, None], draws.partner_op], axis=1)
    wanted[:, 1:][np.arange(k) >= draws.rounds[:, None]] = -1
    source, column = np.nonzero(wanted >= 0)
    level = np.concatenate([draws.first_level[:, None], draws.partner_level], axis=1)
    sign = np.concatenate([draws.first_sign[:, None], draws.partner_sign], axis=1)
    choices = (x[source, column] for x in (wanted, level, sign))
    augmented, order = apply_ops_sorted(images, source, *choices)

    position = np.empty((n, 1 + k), np.int64)
    position[:, 0] = np.arange(n)
    position[:, 1:] = n + np.arange(n)[:, None] * each + np.arange(k) % each
    position[source[order], column[order]] = n + n * each + np.arange(len(source))
    return torch.cat([images, pictures, *augmented]), position[:, 0], position[:, 1:]


def _check_match(images: Tensor, pictures: Tensor, n: int, each: int) -> None:
    """Raise ValueError unless there are n images, and `each` mixing pictures of their size for every one."""
    check_images("images", images)
    check_images("pictures", pictures)
    if len(images) != n or len(pictures) != n * each or pictures.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"images, pictures: got {tuple(images.shape)} and {tuple(pictures.shape)} for the draws of {n} "
            f"images, wanted {n} images and {n * each} pictures of the same size"
        )


def _draw_weights(u: NDArray[np.float64], beta: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """PixMix's weights a, b from `(..., 3)` draws: half of the time interpolation, else extrapolation."""
    interpolate = u[..., 0] < 0.5
    small_a, small_b = beta_quantile(u[..., 1], 1, beta), beta_quantile(u[..., 2], 1, beta)
    a = np.where(interpolate, beta_quantile(u[..., 1], beta, 1), 1 + small_a)
    b = np.where(interpolate, small_b, -small_b)
    # Above 0 also in float32: black to the power of 0 is not black.
    return np.maximum(a, np.finfo(np.float32).tiny).astype(np.float32), b.astype(np.float32)


def _rows(images: Tensor, index: NDArray[np.int64]) -> Tensor:
    """Images at positions that are on the host; a view of them where one follows the other."""
    if len(index) == 1 or (len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index)))):
        return images[index[0] : index[-1] + 1]
    return images.index_select(0, torch.from_numpy(index).to(images.device))


def _put(images: Tensor, index: NDArray[np.int64], values: Tensor) -> None:
    """Replace images at positions that are on the host; on a CPU by NumPy, 15 times as fast as torch."""
    if values.untyped_storage().data_ptr() == images.untyped_storage().data_ptr():
        return  # a view was changed in place
    if images.device.type == "cpu":
        images.numpy()[index] = values.numpy()
    else:
        images.index_copy_(0, torch.from_numpy(index).to(images.device), values)
