"""What bounds `train_step.py`: the convolutions of ResNet-18 alone, in fp32 NCHW and as rtk runs them.

    python benchmarks/convolutions.py [--batch 128] [--width 64] [--rounds 7]

Times the forward and backward pass of every convolution of the network by itself, on its real shapes,
and adds up what a SURE+ step needs of them: three views, at two points each. With everything else for
nothing, the step would make `batch / seconds` images/s, and its ratio would be that of the two sums.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from train_step import step_options

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.runtime.freed_memory import keep_freed_memory

PASSES_A_STEP = 6  # three views, at w and at w + e
SIDES = {
    "fp32 NCHW": (torch.float32, torch.contiguous_format),
    "bf16 NHWC": (torch.bfloat16, torch.channels_last),
}

Shape = tuple[torch.Size, nn.Conv2d]


def shapes_of(model: nn.Module, images: Tensor) -> list[Shape]:
    """Every convolution that a forward pass calls, with the shape of its input."""
    seen: list[Shape] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda layer, inputs, _: seen.append((inputs[0].shape, layer)))
    with torch.no_grad():
        model(images)
    return seen


def seconds(action: Callable[[], object], rounds: int) -> float:
    """Median of several calls, after two that warm up."""
    taken = []
    for _ in range(rounds + 2):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def measure(shape: Shape, side: str, rounds: int) -> tuple[float, float]:
    """Seconds of a convolution's forward and backward pass; images want no gradient."""
    dtype, memory_format = SIDES[side]
    size, layer = shape
    inputs = torch.randn(size).to(dtype, memory_format=memory_format)
    weight = layer.weight.detach().to(dtype, memory_format=memory_format)
    settings = (list(layer.stride), list(layer.padding), [1, 1], False, [0, 0], 1)

    def forward() -> Tensor:
        return torch.ops.aten.convolution(inputs, weight, None, *settings)

    gradient = torch.randn_like(forward())
    wanted = [size[1] > 3, True, False]

    def backward() -> object:
        return torch.ops.aten.convolution_backward(gradient, inputs, weight, None, *settings, wanted)

    return seconds(forward, rounds), seconds(backward, rounds)


def main() -> None:
    """Print the sums, what they allow, and the ratio that they allow."""
    options = step_options(__doc__)
    keep_freed_memory()
    model = build_model(ModelConfig(name="resnet18", width=options.width), 100)
    shapes = shapes_of(model, torch.rand(options.batch, 3, 32, 32))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(shapes)} convolutions")
    totals = []
    for side in SIDES:
        times = [measure(shape, side, options.rounds) for shape in shapes]
        forward, backward = (PASSES_A_STEP * sum(parts) for parts in zip(*times, strict=True))
        totals.append(forward + backward)
        speed = options.batch / totals[-1]
        print(
            f"{side}: forward {forward:.2f} s, backward {backward:.2f} s a step: at most {speed:.1f} images/s"
        )
    fp32, bf16 = totals
    print(f"ratio, with everything else for nothing: {fp32 / bf16:.2f}")


if __name__ == "__main__":
    main()
