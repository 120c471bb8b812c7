"""Validation within a run: metrics on held-out images, under the averaged weights where there are any."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rtk.config.schema import EvaluateConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.order import epoch_order, rank_batch
from rtk.data.sets.of_run import RunSets
from rtk.data.views.augment import to_float
from rtk.metrics import aurc, ds_aurc, ds_f1, ood_detection
from rtk.optim.averaging import float_buffers, reestimate_batchnorm
from rtk.runtime.ranks import gather_objects, mean_over_ranks_, rank, world_size
from rtk.scores import SCORES
from rtk.train.state import TrainState


def validate(
    state: TrainState, sets: RunSets[ImageArrays], batch_size: int, reestimate: bool, config: EvaluateConfig
) -> dict[str, float]:
    """Metrics of the weights that evaluation would use.

    Args:
        state: live objects; their training weights are as before on return.
        sets: validation images and OOD sets; training images, for the BatchNorm statistics of the average.
        batch_size: images per forward pass on this rank.
        reestimate: recompute those statistics (and keep them with the average).
        config: which OOD score, and how the DS metrics are computed.

    Returns:
        `val/accuracy`, `val/aurc`, `val/nll`, and for each group of OOD sets `val/auroc_near`,
        `val/ds_f1_near`, `val/ds_aurc_near` and so on, means over its sets.
    """
    with state.evaluated() as others:
        if others and reestimate:
            _reestimate(state.engine.module, sets.train, batch_size)
        state.engine.module.eval()
        metrics = validation_metrics(state.engine.module, sets, batch_size, config)
        state.engine.module.train()
    return metrics


@torch.no_grad()
def validation_metrics(
    model: nn.Module, sets: RunSets[ImageArrays], batch_size: int, config: EvaluateConfig
) -> dict[str, float]:
    """What `validate` returns, of a model in evaluation mode as it is."""
    assert sets.validation is not None
    score = SCORES[config.validation_score].score
    predict = partial(_predict, model, batch_size=batch_size, ood_score=score)
    id_set = predict(sets.validation)
    ood_sets = {
        group: [predict(arrays) for arrays in members.values()]
        for group, members in sets.validation_groups.items()
    }
    metrics = {
        "val/accuracy": float(id_set.correct.mean()),
        "val/aurc": aurc(id_set.confidence, id_set.correct),
        "val/nll": float(id_set.nll.mean()),
    }
    for group, predicted in ood_sets.items():
        rows = [_joint(id_set, ood_set, config.ds_method) for ood_set in predicted]
        for name in rows[0]:
            metrics[f"val/{name}_{group}"] = float(np.mean([row[name] for row in rows]))
    return metrics


@dataclass(frozen=True)
class Predicted:
    """Float64 or bool columns (N,) of a predicted set, over all ranks."""

    confidence: np.ndarray
    ood_score: np.ndarray
    correct: np.ndarray
    nll: np.ndarray


def _joint(id_set: Predicted, ood_set: Predicted, method: Literal["exact", "grid"]) -> dict[str, float]:
    """AUROC, DS-F1 and DS-AURC of the held-out images against one OOD set."""
    five = (id_set.confidence, id_set.ood_score, id_set.correct, ood_set.confidence, ood_set.ood_score)
    return {
        "auroc": ood_detection(id_set.ood_score, ood_set.ood_score)["auroc"],
        "ds_f1": ds_f1(*five, method=method),
        "ds_aurc": ds_aurc(*five, method=method),
    }


def _reestimate(model: nn.Module, train: ImageArrays, batch_size: int) -> None:
    """BatchNorm statistics over the un-augmented training images, the mean over all ranks' batches."""
    reestimate_batchnorm(model, validation_batches(model, train, batch_size))
    mean_over_ranks_(list(float_buffers(model).values()))


def validation_batches(model: nn.Module, arrays: ImageArrays, batch_size: int) -> Iterator[Tensor]:
    """This rank's share of each global batch of images, full ones alone.

    They are shuffled: files may be sorted by class, and statistics of a batch of one class are not those that
    the weights were trained with.
    """
    ranks = world_size()
    order, size = epoch_order(0, 0, len(arrays)), min(batch_size, len(arrays) // ranks) * ranks
    for step in range(len(arrays) // size):
        yield _images(model, arrays.images[rank_batch(order, step, size, rank(), ranks)])


def _images(model: nn.Module, images: np.ndarray) -> Tensor:
    device = next(model.buffers()).device
    return to_float(torch.from_numpy(images.copy()).to(device))


def _predict(
    model: nn.Module, arrays: ImageArrays, batch_size: int, ood_score: Callable[[Tensor], Tensor]
) -> Predicted:
    """Confidence, OOD score, correctness and negative log-likelihood of the images."""
    own = np.array_split(np.arange(len(arrays)), world_size())[rank()]
    # Under ZeRO-3 each forward pass is collective: every rank makes the same number of them.
    passes = math.ceil(math.ceil(len(arrays) / world_size()) / batch_size)
    columns: list[tuple[Tensor, ...]] = []
    for rows in np.array_split(own, passes):
        logits = model(_images(model, arrays.images[rows])).double()
        # An OOD set may have more classes than the model; nobody asks whether it was classified well.
        labels = torch.from_numpy(arrays.labels[rows]).to(logits.device).clamp(0, logits.shape[1] - 1)
        probability, prediction = logits.softmax(1).max(1)
        nll = cross_entropy(logits, labels, reduction="none")
        columns.append((probability, ood_score(logits), prediction == labels, nll))
    share = tuple(torch.cat(parts).cpu().numpy() for parts in zip(*columns, strict=True))
    return Predicted(*(np.concatenate(parts) for parts in zip(*gather_objects(share), strict=True)))
