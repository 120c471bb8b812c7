"""A training loop as one would write it by hand, and well, for `plain_loop.py` to compare `rtk train` with.

Decoded images in memory, crops and flips on tensors, bf16 autocast, images and weights channels last, foreach
optimisers, DistributedDataParallel. SURE+ is RegMixup, PixMix image by image with Pillow in a process of its
own, as published, Friendly SAM with foreach operations and torch's own EMA.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot, pad
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from views import PillowViews

from rtk.config.model import ModelConfig
from rtk.data.views.fractals import render_fractals
from rtk.models import build_model

RHO, SIGMA, LMBDA, BETA = 0.05, 1.0, 0.8, 10.0


@dataclass(frozen=True)
class Case:
    """What both sides train.

    Attributes:
        model: settings of the network.
        file: training images, below the data folder.
        side: of the images in pixels.
        padding: pixels around an image before it is cropped.
        batch: images a step, over all processes.
        rows: training images.
        bf16: bf16 autocast, where it is the faster of the two on the processor at hand.
        adamw: AdamW in place of SGD.
    """

    model: ModelConfig
    file: str
    side: int
    padding: int
    batch: int
    rows: int
    bf16: bool
    adamw: bool = False


class Images(Dataset[tuple[Tensor, Tensor, int]]):
    """Decoded images uint8 (N, 3, side, side) and labels; of one: the clean view, PixMix of it, the label."""

    def __init__(self, case: Case, folder: str) -> None:
        table = pq.read_table(f"{folder}/{case.file}.parquet", columns=["image", "label"])
        table = table.slice(0, case.rows)
        self.images = torch.stack([decoded(data, case.side) for data in table["image"].to_pylist()])
        self.labels = torch.tensor(table["label"].to_pylist())
        self.padding = case.padding
        self.pixmix: PillowViews | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        side = self.images.shape[-1]
        if self.pixmix is None:  # in the process that loads
            torch.set_num_threads(1)
            self.pixmix = PillowViews(self.images.numpy()[:0], render_fractals(32, side * 9 // 8, 0), side)
        clean = augmented(self.images[row : row + 1], self.padding)[0]
        pixels = (clean * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return clean, self.pixmix.pixmix(Image.fromarray(pixels)), int(self.labels[row])


def decoded(data: bytes, side: int) -> Tensor:
    """An encoded image as uint8 (3, side, side): its shorter edge resized, its middle kept."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if image.size != (side, side):
        scale = side / min(image.size)
        image = image.resize(
            [max(side, round(edge * scale)) for edge in image.size], Image.Resampling.BILINEAR
        )
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def augmented(images: Tensor, padding: int) -> Tensor:
    """Padded, cropped and flipped at random, in [0, 1]; channels last."""
    side = images.shape[-1]
    padded = pad(images.float() / 255, (padding,) * 4)
    places = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    crops = torch.stack(
        [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, places, strict=True)]
    )
    flipped = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, crops.flip(-1), crops)
    return flipped.contiguous(memory_format=torch.channels_last)


def clean_batches(images: Images, size: int) -> Iterator[list[Tensor]]:
    """Clean views and labels of an epoch's whole batches, made in this process."""
    for rows in torch.randperm(len(images))[: len(images) // size * size].split(size):
        yield [augmented(images.images[rows], images.padding), images.labels[rows]]


class FriendlySam:
    """Friendly SAM's ascent with foreach operations."""

    def __init__(self, weights: list[Tensor]) -> None:
        self.weights = weights
        self.average: list[Tensor] | None = None
        self.saved = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def ascend(self) -> None:
        """Move the weights along the gradients less their moving average, and clear the gradients."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        directions = gradients
        if self.average is None:
            self.average = [gradient.clone() for gradient in gradients]
        else:
            directions = list(torch._foreach_sub(gradients, self.average, alpha=SIGMA))
            torch._foreach_lerp_(self.average, gradients, 1 - LMBDA)
        norm = torch.stack(torch._foreach_norm(directions)).norm()
        torch._foreach_copy_(self.saved, self.weights)
        torch._foreach_add_(self.weights, torch._foreach_mul(directions, RHO / (norm + 1e-12)))
        torch._foreach_zero_(gradients)

    @torch.no_grad()
    def restore(self) -> None:
        """Back to where the weights were."""
        torch._foreach_copy_(self.weights, self.saved)


class Step:
    """One update of a method.

    Args:
        case: what is trained.
        model: the network, or it in DistributedDataParallel.
        method: `ce` or `sure_plus`.
        classes: number of classes.
    """

    def __init__(self, case: Case, model: nn.Module, method: str, classes: int) -> None:
        self.case, self.model, self.classes = case, model, classes
        weights: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(weights, 1e-4, foreach=True)
            if case.adamw
            else torch.optim.SGD(weights, 0.05, momentum=0.9, weight_decay=5e-4, foreach=True)
        )
        self.sam = FriendlySam(weights) if method == "sure_plus" else None
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9998)) if self.sam is not None else None
        )

    def __call__(self, *batch: Tensor) -> None:
        """Take it."""
        views = self._views(*batch)
        self.optimizer.zero_grad()
        loss = self._gradients(views)
        if self.sam is not None and self.average is not None:
            self.sam.ascend()
            self._gradients(views)
            self.sam.restore()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        loss.item()

    def _views(self, *batch: Tensor) -> list[tuple[Tensor, Tensor]]:
        if len(batch) == 2:
            return [(batch[0], batch[1])]
        clean, pixmix, labels = batch
        clean, pixmix = (view.contiguous(memory_format=torch.channels_last) for view in (clean, pixmix))
        share, partners = float(np.random.beta(BETA, BETA)), torch.randperm(len(clean))
        mixed = share * clean + (1 - share) * clean[partners]
        targets = one_hot(labels, self.classes).float()
        return [(clean, labels), (mixed, share * targets + (1 - share) * targets[partners]), (pixmix, labels)]

    def _gradients(self, views: list[tuple[Tensor, Tensor]]) -> Tensor:
        for number, (images, targets) in enumerate(views, 1):
            last = number == len(views) or not isinstance(self.model, nn.parallel.DistributedDataParallel)
            with nullcontext() if last else self.model.no_sync():  # type: ignore[operator]
                with torch.autocast("cpu", torch.bfloat16, enabled=self.case.bf16):
                    loss = cross_entropy(self.model(images), targets)
                loss.backward()
        return loss.detach()


def train(case: Case, folder: str, method: str, epochs: int, rank: int = 0, ranks: int = 1) -> float:
    """Images/s of all processes together, from the second epoch on."""
    torch.manual_seed(rank)
    images, size = Images(case, folder), case.batch // ranks
    classes = int(images.labels.max()) + 1
    model: nn.Module = build_model(case.model, classes, case.side).train()
    model = model.to(memory_format=torch.channels_last)
    if ranks > 1:
        join(rank, ranks)
        model = nn.parallel.DistributedDataParallel(model)
        images.images, images.labels = images.images[rank::ranks], images.labels[rank::ranks]
    step = Step(case, model, method, classes)
    loader: Any = DataLoader(images, size, True, num_workers=1, drop_last=True, persistent_workers=True)
    seen, started = 0, time.perf_counter()
    for epoch in range(epochs):
        if epoch == 1:
            seen, started = 0, time.perf_counter()
        for batch in loader if method == "sure_plus" else clean_batches(images, size):
            step(*batch)
            seen += case.batch
    return seen / (time.perf_counter() - started)


def join(rank: int, ranks: int) -> None:
    """Make the processes a group, with a share of the cores for each."""
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29541")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
