"""SURE+ on one CUDA GPU: is it right, how fast is it, and does it train? One command, sized by --minutes.

    python benchmarks/gpu.py --minutes 10 --data $RTK_DATA     # a bare checkout will do
    python benchmarks/gpu.py --device cpu --minutes 3          # every part in small, to see that it works
    python benchmarks/gpu.py --part b,e                        # some of the parts

Needs torch, timm, torchvision, NumPy, pyarrow and pydantic (with PyYAML, Pillow, safetensors, filelock and
psutil, which these or DeepSpeed bring along), no Ray and no MLflow; parts e and f need DeepSpeed and say so
where it is not there. Parts print as they finish, so that any cut leaves results:

a. Numerics: SURE+ steps, PixMix, scores on the device against float64 on the CPU; the tests marked gpu.
b. ResNet-18 (CIFAR stem, 32 px, batch 128): images/s of the SURE+ step, plain fp32, rtk's eager, compiled and
   from CUDA graphs; the share of a step that is outside kernels.
c. ViT-L/16 (DINOv3, 224 px, batch 64): plain and SURE+ (six passes), activation checkpointing off and on,
   memory, and per cent of the matrix-product peak measured here.
d. The three views, made on the device and on the host.
e. DeepSpeed: the step on an engine of ZeRO-0 to 3 beside the bare loop.
f. CIFAR-100, CE and SURE+, trained by the worker's own loop and measured with the nine scores of the paper,
   for as many epochs as fit, from `--data` (cifar100/train.parquet or train_10k.parquet, and test.parquet;
   OOD sets and mixing pictures where they are) or `--train FILE`; without either, on generated pictures.

Goals for one H100 stand beside what is measured. Exits with 1 where a number is off or a part failed.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # rtk need not be installed

from gpu_engine import measure_engine
from gpu_numerics import check_numerics
from gpu_speed import measure_resnet, measure_vit
from gpu_steps import Settings
from gpu_training import train_and_evaluate
from gpu_views import measure_views

# What a part is, and its share of the time.
PARTS: dict[str, tuple[Callable[[Settings], bool], float]] = {
    "a": (check_numerics, 0.05),
    "b": (measure_resnet, 0.15),
    "c": (measure_vit, 0.15),
    "d": (measure_views, 0.05),
    "e": (measure_engine, 0.1),
    "f": (train_and_evaluate, 0.5),
}


def run_part(name: str, settings: Settings) -> bool:
    """Whether a part found nothing amiss; what it raises is printed, and the next goes on."""
    started = time.perf_counter()
    try:
        fine = PARTS[name][0](settings)
    except Exception:
        traceback.print_exc(limit=-3, file=sys.stdout)
        fine = False
    took = time.perf_counter() - started
    print(f"{name}  part {'done' if fine else 'FAILED'} in {took:.1f} s", flush=True)
    return fine


def parse() -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0, help="about how long all parts may take")
    parser.add_argument("--part", default="".join(PARTS), help="letters of the parts to run, such as b,e")
    parser.add_argument("--data", help="folder of prepared data sets, laid out as RTK_DATA")
    parser.add_argument("--train", help="Parquet file to train on in part f")
    parser.add_argument("--epochs", type=int, help="of part f; by default as many as fit")
    return parser.parse_args()


def main() -> int:
    """Run the parts; 1 where one failed."""
    options, started = parse(), time.perf_counter()
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # torch's, of the collectives that DeepSpeed calls
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device: got cuda, torch finds no such device; wanted --device cpu", file=sys.stderr)
        return 2
    name = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"torch {torch.__version__}, timm {timm.__version__}, {name}", flush=True)
    chosen = [part for part in PARTS if part in options.part]
    whole = sum(PARTS[part][1] for part in chosen)
    fine = True
    for part in chosen:
        share = 60 * options.minutes * PARTS[part][1] / whole
        fine &= run_part(part, Settings(options.device, share, options.data, options.train, options.epochs))
    print(f"seconds {time.perf_counter() - started:.1f}")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
