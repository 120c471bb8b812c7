"""Runs of `faults.py`: with a setting of methods and ZeRO stage, undisturbed or killed again and again."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.folder import RunFolder

RTK = [sys.executable, "-m", "rtk.cli", "train"]
SMALL = [
    *("model.width=4", "data.train_rows=512", "train.workers=2", "train.threads=1", "train.precision=fp32"),
    *("train.duration=25ep", "train.max_restarts=1000"),
]
ADAMW = ["optimizer.name=adamw", "optimizer.lr=0.001", "optimizer.momentum=0"]
RAT = ["objective.rat.weight=1", "objective.rat.eps=0.01"]
SETTINGS: dict[str, list[str]] = {
    "SURE+ (F-SAM, EMA), ZeRO-0": ["digits_demo", "train.zero_stage=0"],
    "AdamW, ZeRO-1": ["digits_ce", *ADAMW, "train.zero_stage=1"],
    "RAT, ZeRO-2": ["digits_ce", *RAT, "train.zero_stage=2"],
    "SURE+ (F-SAM, EMA), ZeRO-3": ["digits_demo", "train.zero_stage=3"],
    "SURE+ (F-SAM, EMA), ZeRO-1": ["digits_demo", "train.zero_stage=1"],
    "AdamW, ZeRO-3": ["digits_ce", *ADAMW, "train.zero_stage=3"],
}
VICTIMS = ("worker", "Ray's daemon", "driver")
MOMENTS = ("any", "save", "start")
KILLS_PER_RUN = 4
LOOK_EVERY = 0.002
PATIENCE = 240.0  # seconds for a run to go on


def reference_run(folder: Path, setting: str) -> RunFolder:
    """A finished run of a setting that nothing has disturbed."""
    run = RunFolder(folder / f"reference-{list(SETTINGS).index(setting)}")
    if (run.read_json("status.json") or {}).get("status") != "FINISHED":
        shutil.rmtree(run.path, ignore_errors=True)
        done = subprocess.run(
            command(setting, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
        )
        if done.returncode:
            raise SystemExit(f"{run.path}: the undisturbed run failed: {done.stderr}")
    return run


def command(setting: str, run: RunFolder) -> list[str]:
    """The command that trains a run."""
    return [*RTK, *SETTINGS[setting], *SMALL, f"output={run.path.parent}", "--name", run.name]


def disturbed_run(
    folder: Path, setting: str, number: int, seed: int, wanted: RunFolder
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Train a run that is killed again and again; its kills, and how it has ended beside what was wanted."""
    draw, run = random.Random(f"{seed} {number}"), RunFolder(folder / f"disturbed-{number}")
    shutil.rmtree(run.path, ignore_errors=True)  # of a campaign that was stopped here
    started = time.monotonic()
    with (folder / f"disturbed-{number}.log").open("w") as log:
        keeper = subprocess.Popen([*command(setting, run), "--keep-alive"], stdout=log, stderr=log)
        kills = []
        for _ in range(KILLS_PER_RUN):
            kill = one_kill(run, psutil.Process(keeper.pid), draw)
            if kill is None:
                break
            kills.append({"run": number, "setting": setting, **kill})
        code = keeper.wait()
    outcome = {"run": number, "setting": setting, "code": code, "kills": len(kills)}
    found = differences(run, wanted) if code == 0 else {"differing": [], "rows": []}
    seconds = {"seconds": round(time.monotonic() - started, 1)}
    if code == 0 and not any(found.values()):
        shutil.rmtree(run.path)
    return kills, {**outcome, **found, **seconds}


def one_kill(run: RunFolder, keeper: psutil.Process, draw: random.Random) -> dict[str, Any] | None:
    """Kill something at a drawn moment; None where the run has ended before.

    Returns:
        `victim`, `moment`, `step` at which, whether `saving`, and `seconds` to the next step (None: never).
    """
    victim, moment = draw.choice(VICTIMS), draw.choices(MOMENTS, (0.6, 0.25, 0.15))[0]
    delay = draw.uniform(0, 4.0 if moment == "any" else 12.0)
    if moment != "start" and not waited_for(lambda: trains(run, keeper), keeper, PATIENCE):
        return None
    target = find(victim, keeper)
    if moment == "save":
        waited_for(lambda: is_saving(run), keeper, 20)
    else:
        time.sleep(delay)
        target = find(victim, keeper)
    if target is None or not keeper.is_running() or keeper.status() == psutil.STATUS_ZOMBIE:
        return None if not is_up(keeper) else one_kill(run, keeper, draw)
    saving, step, group = is_saving(run), step_of(run), ranks_of(run)
    with suppress(psutil.NoSuchProcess):
        target.kill()
    killed = time.monotonic()
    went_on = waited_for(lambda: ranks_of(run) not in (group, ()) and trains(run, keeper), keeper, PATIENCE)
    seconds = round(time.monotonic() - killed, 1) if went_on else None
    return {"victim": victim, "moment": moment, "step": step, "saving": saving, "seconds": seconds}


def waited_for(condition: Any, keeper: psutil.Process, seconds: float) -> bool:
    """Whether something has come about before the run has ended, and in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and is_up(keeper):
        with suppress(OSError, ValueError, psutil.Error):  # what is read is being replaced
            if condition():
                return True
        time.sleep(LOOK_EVERY)
    return False


def is_up(process: psutil.Process) -> bool:
    """Whether a process lives."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def ranks_of(run: RunFolder) -> tuple[Any, ...]:
    """Who the workers are, by their pulses."""
    files = sorted((run.path / "ranks").glob("*.json"))
    pulses = [json.loads(file.read_text("utf-8")) for file in files]
    return tuple((pulse["pid"], pulse["started"]) for pulse in pulses)


def trains(run: RunFolder, keeper: psutil.Process) -> bool:
    """Whether all workers live and a step of theirs has been told of."""
    ranks, told = ranks_of(run), run.path / "progress.json"
    alive = [psutil.Process(pid).create_time() == started for pid, started in ranks]
    return len(alive) == 2 and all(alive) and told.stat().st_mtime > max(started for _, started in ranks)


def step_of(run: RunFolder) -> int:
    """The last step that has been told of."""
    with suppress(OSError, ValueError):
        return int((run.read_json("progress.json") or {}).get("step", 0))
    return 0


def is_saving(run: RunFolder) -> bool:
    """Whether there is a checkpoint without a manifest, which is written last."""
    folders = [path for path in run.checkpoints.glob("[0-9]*") if path.is_dir()]
    return any(not (folder / "manifest.json").exists() for folder in folders)


def find(victim: str, keeper: psutil.Process) -> psutil.Process | None:
    """A process of a kind below the one that keeps the run alive."""
    with suppress(psutil.Error):
        drivers = keeper.children()
        if victim == "driver":
            return drivers[0] if drivers else None
        word = "RayTrainWorker" if victim == "worker" else "/raylet/raylet"
        below = [
            process for process in keeper.children(recursive=True) if word in " ".join(process.cmdline())
        ]
        return below[0] if below else None
    return None


def differences(run: RunFolder, wanted: RunFolder) -> dict[str, list[str]]:
    """Files of the last and best checkpoint that are not the wanted run's, and metrics that are not."""
    differing = []
    for alias in ("last", "best"):
        found, expected = (hashes(each, alias) for each in (run, wanted))
        differing += [f"{alias}: {name}" for name in expected if found.get(name) != expected[name]]
    return {"differing": differing, "rows": differing_rows(run, wanted)}


def hashes(run: RunFolder, alias: str) -> dict[str, str]:
    """SHA-256 of a checkpoint's tensors, by file; and its step."""
    folder = resolve_checkpoint(run.checkpoints / alias)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = {n: f["sha256"] for n, f in manifest["files"].items() if n.endswith(".safetensors")}
    return {**files, "step": str(manifest["step"])}


def differing_rows(run: RunFolder, wanted: RunFolder) -> list[str]:
    """Metrics that are missing, there twice, or of another value than those of the run wanted."""
    found, expected = (rows(each) for each in (run, wanted))
    twice = [key for key in {*found} if found.count(key) > 1]
    return sorted(map(str, {*found} ^ {*expected} | {*twice}))[:5]


def rows(run: RunFolder) -> Sequence[tuple[int, str, float]]:
    """What does not depend on the clock, at the ends of epochs: the rows between begin anew after a fault."""
    of_run = [row for row in run.read_metrics() if row["key"].startswith(("val/", "train/lr"))]
    return [(row["step"], row["key"], row["value"]) for row in of_run if row["step"] % 8 == 0]
