"""What the parts of `gpu.py` share: models, views, rtk's step in a loop of one's own, and how to time one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn

from rtk.data.views.mixing import mixup_targets
from rtk.models import Classifier
from rtk.models.classifier import concatenates_views
from rtk.models.heads import LinearHead
from rtk.models.resnet import ResNet
from rtk.objectives import TERMS, ActiveTerm
from rtk.objectives.objective import compute_losses
from rtk.optim import SharpnessAware, WeightAverage

RHO, LMBDA = 0.2, 0.8
PAPER_IMAGES, MINUTES = 200 * 50_000, 8  # of the CIFAR recipe, epochs times images; goal for one H100
SURE_PLUS = [
    ActiveTerm(TERMS[name], TERMS[name].block(weight=1.0))
    for name in ("cross_entropy", "regmixup", "regpixmix")
]


class Settings(NamedTuple):
    """What every part is told.

    Attributes:
        device: `cuda` or `cpu`.
        seconds: about how long the part may take.
        data: folder of prepared data sets; None: generated pictures.
        train: Parquet file to train on in place of `data`'s; None: that one.
        epochs: of the training part; None: as many as fit.
    """

    device: str
    seconds: float
    data: str | None = None
    train: str | None = None
    epochs: int | None = None

    @property
    def small(self) -> bool:
        """Whether everything is to be tried in small."""
        return self.device == "cpu"


class View(NamedTuple):
    """Images (n, 3, H, W) in [0, 1]; labels (n,) or distributions (n, C)."""

    images: Tensor
    targets: Tensor

    def chunk(self, count: int) -> list[View]:
        """Parts of the same number of images, as `rtk.train.step.train_step` asks for them."""
        return [View(*part) for part in zip(self.images.chunk(count), self.targets.chunk(count), strict=True)]


class Case(NamedTuple):
    """A model at a size; `small` stands for it where there is no GPU."""

    name: str
    build: Callable[[bool], Classifier]
    side: tuple[int, int]  # in full, in small
    batch: tuple[int, int]
    classes: int
    optimizer: Callable[..., torch.optim.Optimizer]


class FastStep:
    """rtk's SURE+ step in one process: the functions of `rtk.train.step.train_step` without an engine."""

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.concatenate = concatenates_views("auto", model)
        self.sharpness = SharpnessAware(optimizer, "fsam", rho=RHO, lmbda=LMBDA)
        self.average = WeightAverage(self.sharpness.shards, model)

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        passes = iter((True, False))
        self.sharpness.step(lambda: self.back_propagate(views, next(passes)))
        self.average.update()

    def back_propagate(self, views: dict[str, View], first_pass: bool) -> None:
        """Gradients of the three terms."""
        for together in compute_losses(self.model, views, SURE_PLUS, first_pass, self.concatenate):
            torch.stack([term.weight * losses.mean() for term, losses in together]).sum().backward()


class GraphStep(FastStep):
    """The same with both passes replayed from CUDA graphs; the ascent and the updates stay as they are.

    Args:
        model: on a CUDA device.
        optimizer: over its parameters.
        views: what every step computes with; the graphs read these tensors.
    """

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer, views: dict[str, View]) -> None:
        super().__init__(model, optimizer)
        self.weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # cuBLAS and cuDNN choose their kernels outside of the graph
            for _ in range(3):
                self.back_propagate(views, True)
        torch.cuda.current_stream().wait_stream(side)
        self.passes = {first: self._capture(views, first) for first in (True, False)}

    def _capture(self, views: dict[str, View], first_pass: bool) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        """The graph of a pass, and the gradients that a replay of it fills."""
        self.sharpness.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            super().back_propagate(views, first_pass)
        return graph, [weight.grad for weight in self.weights]

    def back_propagate(self, views: dict[str, View], first_pass: bool) -> None:
        """As before until both graphs are there, then a replay."""
        if not hasattr(self, "passes"):
            super().back_propagate(views, first_pass)
            return
        graph, gradients = self.passes[first_pass]
        graph.replay()
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient


class CrossEntropyStep:
    """Plain training: cross-entropy of one view, one pass, one optimiser step."""

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        self.optimizer.zero_grad()
        view = views["clean"]
        nn.functional.cross_entropy(self.model(view.images), view.targets).backward()
        self.optimizer.step()


def build_resnet18(small: bool) -> Classifier:
    """ResNet-18 with the CIFAR stem, 100 classes."""
    backbone = ResNet((2, 2, 2, 2), 16 if small else 64)
    return classifier(backbone, backbone.num_features, 100)


def build_vit(small: bool) -> Classifier:
    """DINOv3's ViT-L/16 (in small its tiny one), 1000 classes, head on the class token."""
    name = "vit_tiny_patch16_dinov3_qkvb" if small else "vit_large_patch16_dinov3"
    backbone = timm.create_model(name, num_classes=0, global_pool="token")
    return classifier(backbone, backbone.num_features, 1000)


def classifier(backbone: nn.Module, features: int, classes: int) -> Classifier:
    """A backbone with a linear head, in training mode."""
    model = Classifier(backbone, LinearHead(features, classes), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return model.train()


def sgd(model: nn.Module, **options: bool) -> torch.optim.Optimizer:
    """Settings of the CIFAR recipe."""
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, **options)


def adamw(model: nn.Module, **options: bool) -> torch.optim.Optimizer:
    """Settings of the DINOv3 recipe."""
    return torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=5e-6, **options)


RESNET = Case("ResNet-18 CIFAR", build_resnet18, (32, 32), (128, 32), 100, sgd)
VIT = Case("ViT-L/16", build_vit, (224, 64), (64, 8), 1000, adamw)


def random_views(batch: int, side: int, classes: int, device: str, dtype: torch.dtype) -> dict[str, View]:
    """Three views of random pictures, the mixed one with soft targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, batch, 3, side, side, generator=generator).to(device, dtype)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    lam = torch.rand(batch, generator=generator).to(device, dtype)
    soft = mixup_targets(labels, labels.flip(0), lam, classes).to(dtype)
    targets = {"clean": labels, "mixed": soft, "pixmix": labels}
    return {name: View(images[i], target) for i, (name, target) in enumerate(targets.items())}


def fast_model(case: Case, device: str, small: bool) -> Classifier:
    """A case's model as rtk trains it: bf16 autocast, channels_last activations."""
    torch.manual_seed(0)
    model = case.build(small).to(device)
    model.autocast_dtype, model.memory_format = torch.bfloat16, torch.channels_last
    return model


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], device: str, budget: float, warm_up: int = 3) -> float:
    """Median time of an action; repeated for about `budget` seconds, 3 times at least and 50 at most."""
    for _ in range(warm_up):
        action()
    return in_turns([action], device, budget)[0]


def in_turns(actions: Sequence[Callable[[], object]], device: str, budget: float) -> list[float]:
    """Median time of each of several actions that take turns, so that a drift of the machine hits all."""
    times: list[list[float]] = [[] for _ in actions]
    end = time.perf_counter() + budget
    while len(times[0]) < 3 or (time.perf_counter() < end and len(times[0]) < 50):
        for own, action in zip(times, actions, strict=True):
            synchronise(device)
            started = time.perf_counter()
            action()
            synchronise(device)
            own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in times]


def matrix_peak(device: str) -> float:
    """FLOP/s of a large matrix product in bf16."""
    size = 1024 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: a @ a, device, 1.0)


def against(measured: float, goal: float, unit: str, small: bool, least: bool = True) -> str:
    """A figure beside its goal for one H100; in small there is nothing to judge."""
    sign = ">=" if least else "<="
    if small:
        return f"{measured:.2f} {unit} (goal for an H100: {sign} {goal:g}; this is in small)"
    met = measured >= goal if least else measured <= goal
    return f"{measured:.2f} {unit} (goal for an H100: {sign} {goal:g}; {'met' if met else 'MISSED'})"
