"""Validation within a run: metrics on held-out images, under the averaged weights where there are any."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rtk.data.augment import to_float
from rtk.data.views import ImageArrays
from rtk.distributed import gather_objects, mean_over_ranks_, rank, world_size
from rtk.metrics import aurc
from rtk.optim.averaging import float_buffers, reestimate_batchnorm
from rtk.train.state import TrainState


def validate(
    state: TrainState, validation: ImageArrays, train: ImageArrays, batch_size: int, reestimate: bool
) -> dict[str, float]:
    """Metrics `val/accuracy`, `val/aurc`, `val/nll` of the weights that evaluation would use.

    Args:
        state: live objects; their training weights are as before on return.
        validation: held-out images.
        train: training images, for the BatchNorm statistics of the average.
        batch_size: images a forward pass on this rank.
        reestimate: recompute those statistics (and keep them with the average).
    """
    with state.average.applied() if state.average is not None else nullcontext():
        if state.average is not None and reestimate:
            _reestimate(state.engine.module, train, batch_size)
        state.engine.module.eval()
        with torch.no_grad():
            own = _predict(state.engine.module, validation, batch_size)
        state.engine.module.train()
    parts = gather_objects(own)
    confidence, correct, nll = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return {
        "val/accuracy": float(correct.mean()),
        "val/aurc": aurc(confidence, correct),
        "val/nll": float(nll.mean()),
    }


def _reestimate(model: nn.Module, train: ImageArrays, batch_size: int) -> None:
    """BatchNorm statistics over the un-augmented training images, the mean over all ranks' batches."""
    reestimate_batchnorm(model, _own_batches(model, train, batch_size))
    mean_over_ranks_(list(float_buffers(model).values()))


def _own_batches(model: nn.Module, arrays: ImageArrays, batch_size: int) -> Iterator[Tensor]:
    """This rank's share of the images in batches, the same number of full batches on every rank."""
    share = len(arrays) // world_size()
    size = min(batch_size, share)
    start = rank() * share
    for first in range(start, start + share - size + 1, size):
        yield _images(model, arrays.images[first : first + size])


def _images(model: nn.Module, images: np.ndarray) -> Tensor:
    device = next(model.buffers()).device
    return to_float(torch.from_numpy(images.copy()).to(device))


def _predict(
    model: nn.Module, arrays: ImageArrays, batch_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, correctness and negative log-likelihood of this rank's share of the images."""
    own = np.array_split(np.arange(len(arrays)), world_size())[rank()]
    # Under ZeRO-3 each forward pass is collective: every rank makes the same number of them.
    passes = math.ceil(math.ceil(len(arrays) / world_size()) / batch_size)
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in np.array_split(own, passes):
        logits = model(_images(model, arrays.images[rows])).double()
        labels = torch.from_numpy(arrays.labels[rows]).to(logits.device)
        probability, prediction = logits.softmax(1).max(1)
        columns.append((probability, prediction == labels, cross_entropy(logits, labels, reduction="none")))
    confidence, correct, nll = (torch.cat(parts).cpu().numpy() for parts in zip(*columns, strict=True))
    return confidence, correct, nll
