"""BatchNorm over the global batch: the same statistics and gradients on any number of workers."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from rtk.models.batchnorm import batchnorm_layers
from rtk.runtime.ranks import gather_rows, sum_over_ranks


class Moments(NamedTuple):
    """Of each channel over the images and pixels of all ranks, in float32 or wider.

    Attributes:
        mean: (C,).
        variance: (C,), biased.
        values: how many a channel, a scalar tensor.
    """

    mean: Tensor
    variance: Tensor
    values: Tensor


def check_layers(model: nn.Module) -> None:
    """Check that every BatchNorm layer computes what torch's or timm's does, and no more.

    Raises:
        ValueError: naming `model.batchnorm` and the class that does not.
    """
    for layer in batchnorm_layers(model):
        kind = type(layer)
        if kind.forward is not _BatchNorm.forward and not _has_activation(layer):
            raise ValueError(
                f"model.batchnorm: got sync, but {kind.__module__}.{kind.__name__} has a forward pass of its "
                "own; wanted local"
            )


def use_global_batch(model: nn.Module) -> None:
    """Let the BatchNorm layers of a model normalise by the images of all ranks while they train.

    Weights, buffers and their names stay as they are, and so does what a layer does in evaluation mode.

    Raises:
        ValueError: as `check_layers`.
    """
    check_layers(model)
    # Collectives are no work for torch's compiler, which is loaded (a second) where it is at work.
    forward = torch.compiler.disable(_forward) if "torch._dynamo" in sys.modules else _forward
    for layer in batchnorm_layers(model):
        layer.forward = partial(forward, layer)  # type: ignore[method-assign]


def _has_activation(layer: _BatchNorm) -> bool:
    """Whether it is timm's BatchNorm with drop-out and activation behind it."""
    return type(layer).__name__ == "BatchNormAct2d" and type(layer).__module__.startswith("timm.")


def _forward(layer: _BatchNorm, images: Tensor) -> Tensor:
    """The layer's own forward pass, with the moments of all ranks in place of this one's."""
    if not layer.training:
        return type(layer).forward(layer, images)
    moments = global_moments(images)
    if layer.track_running_stats:
        _move_running_statistics(layer, moments)
    out: Tensor = _Normalise.apply(images, layer.weight, layer.bias, *moments, layer.eps)
    if _has_activation(layer):
        timm_layer: Any = layer
        out = timm_layer.act(timm_layer.drop(out))
    return out


@torch.no_grad()
def global_moments(images: Tensor) -> Moments:
    """Moments of this rank's images (n, C, ...), merged with those of the other ranks.

    Each rank's variance is taken around its own mean, so that nothing is lost where the mean is large
    (Chan, Golub and LeVeque 1983). Ranks may have different numbers of images.
    """
    wide = torch.promote_types(images.dtype, torch.float32)
    unused = images.new_zeros(2, images.shape[1], dtype=wide)  # without, bf16 images get bf16 moments
    mean, variance = torch.batch_norm_update_stats(images, unused[0], unused[1], 0.0)
    count = mean.new_tensor([images.numel() / images.shape[1]])
    rows = gather_rows(torch.cat([mean, variance, count])[None])
    means, variances, counts = rows.split([len(mean), len(mean), 1], dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return Moments(mean, (shares * (variances + (means - mean) ** 2)).sum(0), counts.sum())


@torch.no_grad()
def _move_running_statistics(layer: _BatchNorm, moments: Moments) -> None:
    """As torch: an average of momentum `momentum`, or of all batches alike where that is None."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    rate = 1 / layer.num_batches_tracked.item() if layer.momentum is None else layer.momentum
    unbiased = moments.variance * (moments.values / (moments.values - 1))
    layer.running_mean.lerp_(moments.mean.to(layer.running_mean), rate)
    layer.running_var.lerp_(unbiased.to(layer.running_var), rate)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, whose moments depend on the x of all ranks.

    Ioffe and Szegedy 2015: dL/dx = weight / sqrt(variance + eps) * (dy - mean(dy) - x̂ mean(dy x̂)), with means
    over all ranks. Gradients of weight and bias are this rank's own, for whoever averages gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(images, weight, mean, variance, count)
        ctx.eps = eps
        # As in evaluation, by torch's own kernels.
        return batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, variance, count = ctx.saved_tensors
        scale = (variance + ctx.eps).rsqrt()
        factor = torch.ones_like(mean) if weight is None else weight
        of_images, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, images, factor, mean, variance, mean, scale, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            through_mean, through_scale = sum_over_ranks(torch.stack([of_bias, of_weight])) / count
            slope = factor * scale**2 * through_scale
            level = factor * scale * through_mean - slope * mean
            shape = (1, -1, *[1] * (images.dim() - 2))
            of_images -= torch.addcmul(level.view(shape), images, slope.view(shape))
        wanted = zip((of_images, of_weight, of_bias), ctx.needs_input_grad, strict=False)
        return *(part if needed else None for part, needed in wanted), None, None, None, None
