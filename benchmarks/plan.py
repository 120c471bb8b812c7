"""Memory per rank as `rtk plan` predicts it, beside measured peaks, for every ZeRO stage.

    python benchmarks/plan.py [--ranks 2] [--images 16]

SURE+ (three terms, F-SAM, EMA, AdamW) on ViT-S/16 (22 M parameters) at 64 px, in bf16 autocast and in fp32.
"""

from __future__ import annotations

import argparse

from rank_memory import CLASSES, measure_peaks, settings

from rtk.config.load import build_config
from rtk.train.plan import plan_recipe

MIB = 2**20


def tree(stage: int, ranks: int, images: int, precision: str) -> dict:
    """SURE+ on a small vision transformer."""
    return settings(
        stage,
        ranks,
        model={"name": "timm/vit_small_patch16_224"},
        data={"image_size": 64},
        train={"batch_size": images * ranks, "precision": precision},
        objective={"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
        optimizer={"name": "adamw"},
        sharpness={"variant": "fsam"},
        averaging={"kind": "ema"},
    )


def main() -> None:
    """Print predicted and measured MiB a rank, and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--images", type=int, default=16, help="images a rank (default: 16)")
    options = parser.parse_args()
    print("precision  ZeRO  planned MiB  measured MiB  planned / measured")
    for precision in ("bf16", "fp32"):
        for stage in range(4):
            config = tree(stage, options.ranks, options.images, precision)
            planned = plan_recipe(build_config(config), CLASSES)[stage].total
            measured = max(measure_peaks(config, options.ranks))
            columns = f"{planned / MIB:11.0f}  {measured / MIB:12.0f}  {planned / measured:18.2f}"
            print(f"{precision:<9}  {stage:4}  {columns}", flush=True)


if __name__ == "__main__":
    main()
