"""What every score costs beside MSP, on ResNet-18; and RR-BS and kNN against plain ways to the same numbers.

    python benchmarks/scores.py [--width 64] [--images 64] [--rounds 3] [--scores NAME ...]

Every figure is the least of several rounds, and both sides of a comparison are measured in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from rtk.config.model import ModelConfig
from rtk.models import build_model
from rtk.models.perturb import fgsm, logits_and_gradient
from rtk.scores import (
    SCORES,
    FitData,
    Predictions,
    apply_score,
    compute_image_score,
    fit_image_score,
    fit_score,
)
from rtk.scores.logits import soft_margin
from rtk.scores.neighbours import largest_similarities
from rtk.scores.radius import rr_bs

CLASSES = 100


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, value in (("width", 64), ("images", 64), ("rounds", 3), ("steps", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--scores", nargs="+", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--only", choices=("scores", "radius", "knn"))
    options = parser.parse_args()
    for part in (measure_scores, measure_radius, measure_knn):
        if options.only in (None, part.__name__.removeprefix("measure_")):
            part(options)


def measure_scores(options: argparse.Namespace) -> None:
    """Time a batch by scores, the forward pass included, as MSP needs it too."""
    model, images = trained_model(options.width, options.steps), pictures(options.images, seed=1)[0]
    names = list(dict.fromkeys(["msp", *options.scores]))
    fit, tensors = fit_to(model, names)
    states = {name: fit_score(name, fit) for name in names}

    def run(name: str) -> Callable[[], Any]:
        if SCORES[name].inputs == "images":
            return lambda: compute_image_score(name, model, images, tensors[name] or None)
        return lambda: apply_score(name, states[name], predict(model, images))

    times = fastest({name: run(name) for name in names}, options.rounds)
    print("| score | images/s | forward-equivalents (MSP = 1) |\n|---|---|---|")
    for name, seconds in times.items():
        print(f"| `{name}` | {len(images) / seconds:.1f} | {seconds / times['msp']:.2f} |")


def measure_radius(options: argparse.Namespace) -> None:
    """RR-BS against one loop of 25 forward passes over the whole batch."""
    model, images = trained_model(options.width, options.steps), pictures(options.images, seed=2)[0]
    sides: dict[str, Callable[[], Any]] = {
        "25 forward passes": lambda: plain_radius(model, images),
        "rtk": lambda: rr_bs(model, images),
    }
    times = fastest(sides, options.rounds)
    ours, plain = sides["rtk"](), sides["25 forward passes"]()
    apart = ((ours - plain).abs() / plain).numpy()
    print(f"\nRR-BS: {times['25 forward passes'] / times['rtk']:.2f} times as fast as 25 forward passes;")
    print(f"radii apart by {np.median(apart):.2%} (median), {apart.max():.2%} (most)")


def plain_radius(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """RAT's loop: doubling, then bisection, 24 radii for every image."""
    logits, gradient = logits_and_gradient(model, images, lambda z: -soft_margin(z).sum())
    predicted = logits.argmax(1)
    low, high = torch.full_like(logits[:, 0], 1e-6), torch.full_like(logits[:, 0], torch.inf)
    with torch.no_grad():
        for _ in range(24):
            radius = torch.minimum((low + high) / 2, 2 * low)
            kept = model(fgsm(images, gradient, radius)).argmax(1) == predicted
            low, high = torch.where(kept, radius, low), torch.where(kept, high, radius)
    return (low + torch.where(high.isinf(), low, high)) / 2


def measure_knn(options: argparse.Namespace) -> None:
    """The k-th of 50,000 x 512 against faiss's flat index, with the same number of threads."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.rand(n, 512, generator=generator) for n in (50_000, 2_000))
    unit = [torch.nn.functional.normalize(x, dim=1).numpy() for x in (bank, queries)]
    index = faiss.IndexFlatL2(512)
    index.add(unit[0])
    sides: dict[str, Callable[[], Any]] = {
        "faiss": lambda: -index.search(unit[1], 50)[0][:, -1],
        "rtk": lambda: (2 * largest_similarities(queries, bank, 50)[:, -1] - 2).numpy(),
    }
    times = fastest(sides, options.rounds)
    apart = np.abs(sides["rtk"]() - sides["faiss"]()).max()
    print(f"\nkNN, 2,000 queries: rtk {times['rtk']:.2f} s, faiss's flat index {times['faiss']:.2f} s,")
    print(f"ratio {times['rtk'] / times['faiss']:.2f}; largest difference {apart:.1e}")


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures (N, 3, 32, 32) of coarse class patterns, and their labels."""
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    coarse = torch.nn.functional.interpolate(patterns[labels], size=32, mode="nearest")
    return (coarse + 0.3 * torch.randn(coarse.shape, generator=generator)).clamp(0, 1), labels


def trained_model(width: int, steps: int) -> torch.nn.Module:
    """A ResNet-18 that has seen a few batches: radii of random weights mean nothing."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="resnet18", width=width), CLASSES)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for step in range(steps):
        images, labels = pictures(64, seed=100 + step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def predict(model: Any, images: torch.Tensor, labels: torch.Tensor | None = None) -> Predictions:
    """Logits and features."""
    with torch.no_grad():
        logits, features = model.forward_features(images)
    return Predictions(logits, features, torch.zeros(len(images)).long() if labels is None else labels)


def fit_to(model: Any, names: list[str]) -> tuple[FitData, dict[str, dict[str, torch.Tensor]]]:
    """What scores of predictions, and each of images, are fitted to: a few hundred pictures."""
    images, labels = pictures(256, seed=3)
    known = predict(model, images, labels)
    halves = [[(images[rows], labels[rows])] for rows in (slice(128), slice(128, 256))]
    running = [name for name in names if SCORES[name].inputs == "images"]
    tensors = {name: fit_image_score(name, model, *halves) for name in running}
    return FitData(known, known, *model.head.used_weights()), tensors


def fastest(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Least seconds of each over rounds in which they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, function in sides.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
