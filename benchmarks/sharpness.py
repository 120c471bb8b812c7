"""What sharpness-aware steps and RAT cost over a plain step, in time and in memory, at every ZeRO stage.

    python benchmarks/sharpness.py [--ranks 2] [--rounds 10] [--images 8] [--stages 0 1 2 3] [--no-memory]

One process a rank holds the plain step, F-SAM's, RAT's, LookSAM's (two passes in one of 5 steps), MSAM's and
ESAM's (a second pass over half of the images, after a forward pass over all) on engines of their own; they
take turns, so that a machine whose speed drifts is fair to all. Time is processor time (user and system) of
rank 0, summed over the rounds, which are a multiple of LookSAM's 5. The limit is 2 where a step makes two
forward and two backward passes for one, 1.2 for LookSAM, 1 for MSAM, and 1.83 for ESAM if a backward pass
costs two forward ones. Added memory is F-SAM's peak less the plain one's, beside 8 bytes a weight (the backup
and the gradient average) divided by the ranks that share them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import time
from typing import Any

import torch
from rank_memory import CLASSES, measure_peaks, random_views, settings, start_rank

from rtk.config.load import build_config
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.state import TrainState
from rtk.train.step import train_step

PLAIN, FSAM, RAT, LOOKSAM, MSAM, ESAM = "plain", "F-SAM", "RAT", "LookSAM", "MSAM", "ESAM"
LOOKS = 5  # steps of a cycle of LookSAM
METHODS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    FSAM: {"sharpness": {"variant": "fsam"}},
    RAT: {"objective": {"rat": {"weight": 1.0}}},
    LOOKSAM: {"sharpness": {"variant": "looksam", "every": LOOKS}},
    MSAM: {"sharpness": {"variant": "msam"}},
    ESAM: {"sharpness": {"variant": "esam"}},
}


def tree(stage: int, ranks: int, images: int, method: str) -> dict[str, Any]:
    """ViT-S/16 at 128 px in fp32 with SGD: compute dominates."""
    return settings(
        stage,
        ranks,
        model={"name": "timm/vit_small_patch16_224"},
        data={"image_size": 128},
        train={"batch_size": images * ranks, "precision": "fp32"},
        **METHODS[method],
    )


def step_seconds(trees: dict[str, dict[str, Any]], ranks: int, rounds: int) -> dict[str, list[float]]:
    """Processor seconds of every update on rank 0, by the config's name, after a cycle that warms up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, trees, ranks, rounds, port, results))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    seconds: dict[str, list[float]] = results.get(timeout=3600)
    for process in processes:
        process.join()
    return {name: values[LOOKS:] for name, values in seconds.items()}


def _rank(rank: int, trees: dict[str, Any], ranks: int, rounds: int, port: int, results: Any) -> None:
    start_rank(rank, ranks, port)
    states = {name: _state(one) for name, one in trees.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trees}
    for step in range(rounds + LOOKS):
        for name, state in states.items():
            seconds[name].append(_timed_step(state, trees[name], ranks, step))
    if rank == 0:
        results.put(seconds)
    torch.distributed.barrier()


def _state(tree: dict[str, Any]) -> TrainState:
    state = build_state(TrainingJob("", tree, CLASSES, 10**6, resume=False), torch.device("cpu"))
    state.engine.module.train()
    return state


def _timed_step(state: TrainState, tree: dict[str, Any], ranks: int, step: int) -> float:
    views = random_views(tree, ranks)
    torch.distributed.barrier()
    started = time.process_time()
    train_step(state, views, step)
    return time.process_time() - started


def added_memory(stage: int, ranks: int, images: int) -> tuple[int, int]:
    """Bytes a rank that F-SAM adds to the peak: measured, and by the formula."""
    plain, fsam = (max(measure_peaks(tree(stage, ranks, images, m), ranks)) for m in (PLAIN, FSAM))
    with torch.device("meta"):
        from rtk.models import build_model

        config = build_config(tree(stage, ranks, images, PLAIN))
        model = build_model(config.model, CLASSES, config.data.image_size)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return fsam - plain, 8 * weights // (1 if stage == 0 else ranks)


def main() -> None:
    """Print the ratios and the added memory of every stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2 * LOOKS, help="a multiple of 5 (default: 10)")
    parser.add_argument("--images", type=int, default=8, help="images a rank (default: 8)")
    parser.add_argument("--stages", type=int, nargs="+", default=list(range(4)))
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    options = parser.parse_args()
    others = [method for method in METHODS if method != PLAIN]
    print("ZeRO  plain s  " + "  ".join(f"{m} / plain" for m in others), end="")
    print("" if options.no_memory else "  added MiB  8 bytes a weight  ratio")
    for stage in options.stages:
        trees = {method: tree(stage, options.ranks, options.images, method) for method in METHODS}
        seconds = step_seconds(trees, options.ranks, options.rounds)
        total = {method: sum(values) for method, values in seconds.items()}
        ratios = "  ".join(f"{total[m] / total[PLAIN]:{len(m) + 8}.3f}" for m in others)
        print(f"{stage:4}  {total[PLAIN] / len(seconds[PLAIN]):7.2f}  {ratios}", end="", flush=True)
        if not options.no_memory:
            added, formula = added_memory(stage, options.ranks, 4 * options.images)
            print(f"  {added / 2**20:9.1f}  {formula / 2**20:16.1f}  {added / formula:5.2f}", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
