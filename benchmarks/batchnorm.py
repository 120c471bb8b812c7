"""What BatchNorm over the global batch costs over each worker's own: a SURE+ step of ResNet-18.

    python benchmarks/batchnorm.py [--ranks 2] [--rounds 7] [--images 32] [--width 32]

One process a rank holds both engines; they take turns, so that a machine whose speed drifts is fair to both.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from rank_memory import settings
from sharpness import step_seconds


def tree(ranks: int, images: int, width: int, batchnorm: str) -> dict[str, Any]:
    """SURE+ on CIFAR-sized images in fp32."""
    return settings(
        1,
        ranks,
        model={"name": "resnet18", "width": width, "batchnorm": batchnorm},
        data={"image_size": 32},
        objective={"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
        sharpness={"variant": "fsam"},
        train={"batch_size": images * ranks, "precision": "fp32"},
    )


def main() -> None:
    """Print the seconds of a step, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=32, help="images a rank (default: 32)")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage (default: 32)")
    options = parser.parse_args()
    trees = {kind: tree(options.ranks, options.images, options.width, kind) for kind in ("local", "sync")}
    seconds = step_seconds(trees, options.ranks, options.rounds)
    ratios = [sync / local for sync, local in zip(seconds["sync"], seconds["local"], strict=True)]
    for kind, values in seconds.items():
        print(f"{kind:5}  {statistics.median(values):.3f} s a step")
    print(f"ratio  {statistics.median(ratios):.2f} (rounds: {min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main()
