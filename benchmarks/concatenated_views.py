"""Time of a pass over all three views in one forward pass, against one forward pass a view.

    python benchmarks/concatenated_views.py [--model dinov3_s16] [--batch 8] [--side 64] [--rounds 7]

Forward and backward of the SURE+ objective in fp32 on the CPU, in turns, timed in processor seconds, so that
other work on the machine matters little. Under ZeRO-3 it also saves two gathers of the weights out of three.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from rtk.config.model import ModelConfig
from rtk.data.views.maker import View
from rtk.models import build_model
from rtk.objectives import TERMS, ActiveTerm
from rtk.objectives.objective import compute_losses

NAMES = ("clean", "mixed", "pixmix")
SURE_PLUS = ("cross_entropy", "regmixup", "regpixmix")


def main() -> None:
    """Print the median time of both and the spread of their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="dinov3_s16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = build_model(ModelConfig(name=options.model), 10, options.side).train()
    labels = torch.randint(10, (options.batch,))
    views = {name: View(torch.rand(options.batch, 3, options.side, options.side), labels) for name in NAMES}
    terms = [ActiveTerm(TERMS[name], TERMS[name].block(weight=1.0)) for name in SURE_PLUS]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(options.rounds + 1):
        for concatenate, times in seconds.items():
            started = time.process_time()
            for together in compute_losses(model, views, terms, concatenate=concatenate):
                torch.stack([losses.mean() for _, losses in together]).sum().backward()
            if number:  # the first round warms up
                times.append(time.process_time() - started)
    ratios = [apart / together for apart, together in zip(*seconds.values(), strict=True)]
    for concatenate, times in seconds.items():
        print(f"{'together' if concatenate else 'apart':<9} {1000 * statistics.median(times):8.1f} ms")
    print(f"ratio     {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
