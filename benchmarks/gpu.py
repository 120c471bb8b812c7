"""SURE+ on one CUDA GPU: is it right, and how fast is it? One command, about five minutes.

    python benchmarks/gpu.py                       # torch, timm, torchvision, NumPy, pydantic and PyYAML
    python benchmarks/gpu.py --device cpu          # the same in small, to see that it works

1. Numerics: two SURE+ steps in fp32 on the device against float64 on the CPU, and the PixMix view.
2. ResNet-18 (CIFAR stem, 32 px, batch 128) and ViT-L/16 (DINOv3, 224 px, batch 64): images/s, peak memory and
   the share of the matrix-product peak measured here, each beside an unoptimised fp32 step (`plain_step.py`)
   of the same mathematics. rtk's step: bf16 autocast, channels_last for the ResNet, concatenated views for
   the transformer, in-place F-SAM and EMA. Random pictures: the speed does not depend on what they show.
3. The clean, mixed and PixMix views, made on the device.

Exits with 1 where a number is off. The aim for the speed is a ratio of 4 on a data-centre GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))  # rtk need not be installed

from plain_step import LMBDA, RHO, PlainStep

from rtk.data.views.augment import crop_flip, to_float
from rtk.data.views.mixing import mixup, mixup_targets
from rtk.data.views.pixmix import draw_pixmix, pixmix, pixmix_draw_count
from rtk.models import Classifier
from rtk.models.classifier import concatenates_views
from rtk.models.heads import LinearHead
from rtk.models.resnet import ResNet
from rtk.objectives import TERMS, ActiveTerm
from rtk.objectives.objective import compute_losses
from rtk.optim import SharpnessAware, WeightAverage

SURE_PLUS = [
    ActiveTerm(TERMS[name], TERMS[name].block(weight=1.0))
    for name in ("cross_entropy", "regmixup", "regpixmix")
]
# Of the weights' change, fp32 against float64; kinks (ReLU) and batch statistics amplify rounding at w + e.
TOLERANCE = {"ResNet-18 CIFAR": 1e-3, "ViT-L/16": 1e-4}


class View(NamedTuple):
    """Images (n, 3, H, W) in [0, 1]; labels (n,) or distributions (n, C)."""

    images: Tensor
    targets: Tensor


class Case(NamedTuple):
    """A model at a size; `small` stands for it where there is no GPU."""

    name: str
    build: Callable[[bool], nn.Module]
    side: tuple[int, int]  # in full, in small
    batch: tuple[int, int]
    classes: int
    optimizer: Callable[..., torch.optim.Optimizer]


class FastStep:
    """rtk's step in one process: the same functions as in `rtk.train.step.train_step`."""

    def __init__(self, model: Classifier, optimizer: torch.optim.Optimizer) -> None:
        self.model = model
        self.concatenate = concatenates_views("auto", model)
        self.sharpness = SharpnessAware(optimizer, "fsam", rho=RHO, lmbda=LMBDA)
        self.average = WeightAverage(self.sharpness.shards, model)

    def __call__(self, views: dict[str, View]) -> None:
        """One update."""
        passes = iter((True, False))

        def closure() -> None:
            for together in compute_losses(self.model, views, SURE_PLUS, next(passes), self.concatenate):
                torch.stack([term.weight * losses.mean() for term, losses in together]).sum().backward()

        self.sharpness.step(closure)
        self.average.update()


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


CASES = [
    Case("ResNet-18 CIFAR", build_resnet18, (32, 32), (128, 32), 100, sgd),
    Case("ViT-L/16", build_vit, (224, 64), (64, 8), 1000, adamw),
]


def random_views(batch: int, side: int, classes: int, device: str, dtype: torch.dtype) -> dict[str, View]:
    """Three views of random pictures, the mixed one with soft targets."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, batch, 3, side, side, generator=generator).to(device, dtype)
    labels = torch.randint(classes, (batch,), generator=generator).to(device)
    lam = torch.rand(batch, generator=generator).to(device, dtype)
    soft = mixup_targets(labels, labels.flip(0), lam, classes).to(dtype)
    targets = {"clean": labels, "mixed": soft, "pixmix": labels}
    return {name: View(images[i], target) for i, (name, target) in enumerate(targets.items())}


# ---------------------------------------------------------------- numerics


def check_numerics(device: str) -> dict[str, float]:
    """Relative error of the weights' change over two SURE+ steps, by model; always the small models."""
    errors = {}
    for case in CASES:
        changes = []
        for place, dtype in ((device, torch.float32), ("cpu", torch.float64)):
            torch.manual_seed(0)
            model = case.build(True).to(place, dtype)
            before = flat_weights(model)
            # A plain gradient step: Adam would blow up the noise in gradients that are zero but for rounding.
            step = FastStep(model, torch.optim.SGD(model.parameters(), lr=0.1))
            for _ in range(2):
                step(random_views(8, case.side[1], case.classes, place, dtype))
            changes.append(flat_weights(model) - before)
        errors[case.name] = float((changes[0] - changes[1]).norm() / changes[1].norm())
    return errors


def flat_weights(model: nn.Module) -> Tensor:
    """All parameters, float64 on the CPU."""
    return torch.cat([p.detach().double().cpu().flatten() for p in model.parameters()])


def check_pixmix(device: str) -> float:
    """Largest difference of the PixMix view on the device and on the CPU, in steps of 1/255."""
    clean, pictures, draws = pixmix_inputs(64, 32)
    settings = draw_pixmix(draws, 3, 3, 4)
    here = pixmix(clean.to(device), pictures.to(device), settings).cpu()
    return float((here - pixmix(clean, pictures, settings)).abs().max() * 255)


def pixmix_inputs(batch: int, side: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Random clean images and mixing pictures, uint8, and uniform draws."""
    generator = np.random.default_rng(0)
    shape = (2, batch, 3, side, side)
    clean, pictures = torch.from_numpy(generator.integers(0, 256, shape, dtype=np.uint8))
    return clean, pictures, generator.random((batch, pixmix_draw_count(4)))


# ---------------------------------------------------------------- speed


def seconds(action: Callable[[], object], device: str, rounds: int, warm_up: int = 3) -> float:
    """Median time of an action."""
    times = []
    for number in range(warm_up + rounds):
        synchronise(device)
        started = time.perf_counter()
        action()
        synchronise(device)
        if number >= warm_up:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_peak(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of a large matrix product."""
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / seconds(lambda: a @ a, device, 10)


def measure_case(case: Case, device: str, rounds: int, peak: float, compiled: bool) -> float:
    """Print one case's lines and return the ratio of both sides."""
    small = device == "cpu"
    side, batch = case.side[small], case.batch[small]
    views = random_views(batch, side, case.classes, device, torch.float32)
    plain = measure_step(PlainStep, case, views, device, rounds, small)
    fast = measure_step(FastStep, case, views, device, rounds, small, compiled)
    for name, (duration, flops, memory) in (("plain fp32", plain), ("rtk bf16", fast)):
        share = f"{100 * flops / duration / peak:5.1f} % of the peak"
        print(f"{case.name:<16} {name:<11} {batch / duration:9.1f} images/s  {memory:6.1f} GiB  {share}")
    print(f"{case.name:<16} ratio       {plain[0] / fast[0]:9.2f}")
    return plain[0] / fast[0]


def measure_step(
    kind: type[PlainStep] | type[FastStep],
    case: Case,
    views: dict[str, View],
    device: str,
    rounds: int,
    small: bool,
    compiled: bool = False,
) -> tuple[float, float, float]:
    """Seconds a step, its FLOP, and peak memory in GiB (0 on the CPU)."""
    torch.manual_seed(0)
    model = case.build(small).to(device)
    if kind is FastStep:
        model.autocast_dtype, model.memory_format = torch.bfloat16, torch.channels_last
        if compiled:
            model.backbone.compile()
    step = kind(model, case.optimizer(model, fused=kind is FastStep))
    step(views)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    duration = seconds(lambda: step(views), device, rounds)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    counted = FlopCounterMode(display=False)
    with counted:
        step(views)
    return duration, counted.get_total_flops(), memory


def measure_views(device: str, side: int, batch: int, rounds: int) -> float:
    """Images/s of all three views, from decoded pictures that are on the device already."""
    clean, pictures, draws = pixmix_inputs(batch, side)
    images, pictures = clean.to(device), pictures.to(device)
    labels, generator = torch.arange(batch, device=device) % 10, np.random.default_rng(1)
    lam = torch.from_numpy(generator.beta(10, 10, batch)).float().to(device)

    def make() -> None:
        cropped = crop_flip(images, generator.random((batch, 3)), side // 8, True)
        mixup(to_float(cropped), to_float(cropped.flip(0)), lam)
        mixup_targets(labels, labels.flip(0), lam, 10)
        pixmix(cropped, pictures, draw_pixmix(draws, 3, 3, 4))

    return batch / seconds(make, device, rounds)


def main() -> int:
    """Print everything; 1 where a number is off."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true", help="torch.compile rtk's side")
    options = parser.parse_args()
    device, small = options.device, options.device == "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, timm {timm.__version__}, {name}")

    errors = check_numerics(device)
    for model, error in errors.items():
        print(f"numerics, {model}: two steps, fp32 against float64: relative error {error:.1e}")
    apart = check_pixmix(device)
    print(f"numerics, PixMix: at most {apart:.2f}/255 from the CPU's")

    peak = matrix_peak(device, torch.bfloat16, 1024 if small else 8192)
    print(f"matrix product, bf16: {peak / 1e12:.2f} TFLOP/s")
    for case in CASES:
        measure_case(case, device, options.rounds, peak, options.compile)
    for side, batch in ((32, 64), (64, 8)) if small else ((32, 1024), (224, 128)):
        print(f"views, {side} px: {measure_views(device, side, batch, options.rounds):.0f} images/s")
    return int(any(error > TOLERANCE[model] for model, error in errors.items()) or apart > 1)


if __name__ == "__main__":
    sys.exit(main())
