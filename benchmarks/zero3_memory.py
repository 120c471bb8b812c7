"""Peak memory of every rank while a DINOv3 is built under ZeRO-3, and in one SURE+ step.

    python benchmarks/zero3_memory.py [--model dinov3_l16] [--ranks 2] [--batch 2] [--side 224]

Gloo ranks on the CPU, random weights, bf16 autocast, activation checkpointing, AdamW, F-SAM and EMA, as in
the recipe dinov3_l16_imagenet1k_sure_plus. Figures are resident memory over that of the imports.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.data.views.maker import View
from rtk.train.initial import initial_model
from rtk.train.job import TrainingJob
from rtk.train.setup import build_state
from rtk.train.step import train_step

CLASSES = 1000


def sure_plus_config(options: argparse.Namespace) -> RunConfig:
    """The recipe's settings, without its data paths and weights."""
    return build_config(
        {
            "data": {"train": "random pictures", "image_size": options.side},
            "model": {"name": options.model},
            "objective": {"regmixup": {"weight": 1.0}, "regpixmix": {"weight": 1.0}},
            "optimizer": {"name": "adamw", "lr": 1e-5, "weight_decay": 5e-6},
            "sharpness": {"variant": "fsam", "rho": 0.2, "lmbda": 0.8},
            "averaging": {"kind": "ema"},
            "train": {
                "batch_size": options.batch,
                "workers": options.ranks,
                "zero_stage": 3,
                "precision": "bf16",
                "checkpoint_activations": True,
            },
        }
    )


def resident(key: str) -> float:
    """`VmRSS` or its peak `VmHWM` of this process, GiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 2**20


def reset_peak() -> None:
    """Let the peak start from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def random_views(images: int, side: int) -> dict[str, View]:
    """Three views of random pictures."""
    labels = torch.randint(CLASSES, (images,))
    return {name: View(torch.rand(images, 3, side, side), labels) for name in ("clean", "mixed", "pixmix")}


def measure_rank(rank: int, port: int, options: argparse.Namespace) -> None:
    """Build, step, and print this rank's figures."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(options.ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    config = sure_plus_config(options)
    job = TrainingJob("", config.model_dump(mode="json"), CLASSES, options.batch, resume=False)
    import timm  # noqa: F401 (its memory is not the model's)

    from rtk.train.engine import import_deepspeed

    import_deepspeed()
    start = resident("VmRSS")
    reset_peak()
    model = initial_model(config, CLASSES)
    whole = sum(parameter.ds_numel for parameter in model.parameters()) * 4 / 2**30
    built, building = resident("VmRSS") - start, resident("VmHWM") - start
    del model
    state = build_state(job, torch.device("cpu"))
    state.engine.module.train()
    ready = resident("VmRSS") - start
    views = random_views(options.batch // options.ranks, options.side)
    for step in range(2):  # the second has all of the optimiser's and F-SAM's state
        reset_peak()
        started = time.monotonic()
        losses = train_step(state, views, step).read().losses
        seconds, peak = time.monotonic() - started, resident("VmHWM") - start
    print(
        f"rank {rank}: GiB: whole model in fp32 {whole:.2f}; built {built:.2f} (peak {building:.2f}); "
        f"with engine and average {ready:.2f}; peak in a step {peak:.2f}, and {start:.2f} of imports; "
        f"step {seconds:.0f} s, loss {losses['cross_entropy']:.3f}",
        flush=True,
    )
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="dinov3_l16")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=2, help="images a step, over all ranks")
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # so that what is freed is no longer resident
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(measure_rank, args=(port, options), nprocs=options.ranks)


if __name__ == "__main__":
    main()
