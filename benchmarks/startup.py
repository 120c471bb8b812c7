"""How long rtk's commands take beyond their arithmetic, phase by phase.

    python benchmarks/startup.py [--workers 1 2] [--rounds 3] [--demo]

Trains `digits_demo` for ten steps as a user does, by the command, then evaluates and exports it, and predicts
one image. The clock starts with the process; phases are seen in the files of the run, 200 times a second.
`--demo` times `rtk demo` besides. The last line is the time to the first step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

RTK = [sys.executable, "-m", "rtk.cli"]
LOOK_EVERY = 0.005  # seconds


def timed(*arguments: str) -> dict[str, float]:
    """Seconds of a command."""
    started = time.monotonic()
    subprocess.run([*RTK, *arguments], check=True, stdout=subprocess.DEVNULL)
    return {"whole command": time.monotonic() - started}


def timed_training(output: Path, workers: int) -> dict[str, float]:
    """Seconds from a training's start to each of its phases."""
    started = time.monotonic()
    overrides = [f"output={output}", f"train.workers={workers}", "train.duration=10steps"]
    process = subprocess.Popen(
        [*RTK, "train", "digits_demo", *overrides], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    phases: dict[str, float] = {}
    while process.poll() is None:
        for phase in _reached(output) - phases.keys():
            phases[phase] = time.monotonic() - started
        time.sleep(LOOK_EVERY)
    if process.returncode:
        raise SystemExit("the training failed")
    return {**phases, "whole command": time.monotonic() - started}


def _reached(output: Path) -> set[str]:
    """Phases that the only run of a folder has reached."""
    reached = {"data and cluster ready" for _ in output.glob("digits_demo-*")}
    reached |= {"workers there" for _ in output.glob("digits_demo-*/ranks/*.json")}
    for file in output.glob("digits_demo-*/progress.json"):
        try:
            step = json.loads(file.read_text()).get("step", 0)
        except ValueError:  # is being written
            continue
        reached |= {"first step"} if step else set()
        reached |= {"last step"} if step == 10 else set()
    return reached


def measure(folder: Path, workers: list[int], demo: bool) -> dict[tuple[str, str], float]:
    """One round: seconds by command and phase."""
    measured: dict[tuple[str, str], float] = {}

    def note(command: str, phases: dict[str, float]) -> None:
        measured.update({(command, phase): seconds for phase, seconds in phases.items()})

    for count in workers:
        shutil.rmtree(folder, ignore_errors=True)
        note(f"train, {count} workers", timed_training(folder, count))
    run = str(next(folder.glob("digits_demo-*")))
    note("evaluate", timed("evaluate", run, "--risk", "0.9", "--method", "empirical"))
    note("export", timed("export", run, "--no-mlflow"))
    note("predict, one image", timed("predict", run, str(_image(folder))))
    if demo:
        note("demo", timed("demo", "--output", str(folder / "demo")))
    return measured


def _image(folder: Path) -> Path:
    """One picture to predict."""
    import numpy as np
    from PIL import Image

    path = folder / "picture.png"
    Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(path)
    return path


def main() -> None:
    """Print the median of every phase."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--demo", action="store_true")
    options = parser.parse_args()
    rounds = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            for key, seconds in measure(Path(folder) / "runs", options.workers, options.demo).items():
                rounds[key].append(seconds)
    for (command, phase), seconds in rounds.items():
        middle, extremes = statistics.median(seconds), f"{min(seconds):.1f} - {max(seconds):.1f}"
        print(f"{command:20} {phase:24} {middle:6.1f} s  {extremes}")
    print(f"seconds {statistics.median(rounds[f'train, {max(options.workers)} workers', 'first step']):.1f}")


if __name__ == "__main__":
    main()
