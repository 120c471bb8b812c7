"""What `train.precision: auto` chooses for networks of ten kinds, beside what is fastest here.

    python benchmarks/precision.py [--batch 16] [--side 128] [--rounds 5] [--networks resnet18 ...]

A step is forward, cross-entropy and backward of timm's network, images and weights laid out channels last, in
fp32 and under bf16 autocast in turns: so a machine whose speed drifts is fair to both. The last line is the
worst ratio of the chosen precision's speed to the fastest's.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rtk.models.precision import is_faster_in_bf16

NETWORKS = (
    "resnet18",
    "resnet50",
    "dla34",
    "densenet121",
    "resnext50_32x4d",
    "regnety_004",
    "mobilenetv3_small_100",
    "efficientnet_lite0",
    "convnext_atto",
    "vit_small_patch16_224",
)


def build(name: str, side: int) -> nn.Module:
    """A network of 10 classes for images of `side` pixels."""
    sized = {"img_size": side} if name.startswith("vit") else {}
    return timm.create_model(name, num_classes=10, **sized)


def timed_step(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool) -> float:
    """Seconds of a step."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = cross_entropy(model(images).float(), labels)
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


def measure(name: str, batch: int, side: int, rounds: int) -> tuple[dict[bool, float], bool]:
    """Median seconds of a step without and with bf16, and whether `auto` chooses bf16."""
    model = build(name, side).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch) % 10
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for bf16, measured in seconds.items():
            taken = timed_step(model, images, labels, bf16)
            if number:  # the first chooses kernels
                measured.append(taken)
    return {bf16: statistics.median(taken) for bf16, taken in seconds.items()}, is_faster_in_bf16(
        model, "cpu"
    )


def main() -> None:
    """Print a line a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    options = parser.parse_args()
    worst = 1.0
    print(f"{'network':24} fp32 images/s  bf16 images/s  auto   of the fastest")
    for name in options.networks:
        seconds, chosen = measure(name, options.batch, options.side, options.rounds)
        share = min(seconds.values()) / seconds[chosen]
        worst = min(worst, share)
        fp32, bf16 = (options.batch / seconds[key] for key in (False, True))
        print(
            f"{name:24} {fp32:13.1f}  {bf16:13.1f}  {'bf16' if chosen else 'fp32'}   {share:.2f}", flush=True
        )
    print(f"ratio {worst:.2f}")


if __name__ == "__main__":
    main()
