"""Runs of `faults.py`: their settings, who keeps them alive, and what they are seen to be doing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeAlias

import psutil

from rtk.runs.folder import RunFolder

Row: TypeAlias = dict[str, Any]
Disturb: TypeAlias = Callable[[int], tuple[list[Row], Row]]  # of a run's number: its kills, how it has ended

RTK = [sys.executable, "-m", "rtk.cli", "train"]
SMALL = [
    *("model.width=4", "data.train_rows=512", "train.workers=2", "train.threads=1", "train.precision=fp32"),
    *("train.duration=25ep", "train.max_restarts=1000"),
]
ADAMW = ["optimizer.name=adamw", "optimizer.lr=0.001", "optimizer.momentum=0"]
RAT = ["objective.rat.weight=1", "objective.rat.eps=0.01"]
# No batch statistics, so that a batch may be cut otherwise; no kinks, which would turn rounding into steps.
SMOOTH = ["model.name=timm/test_vit", "model.width=null", "model.batchnorm=sync", "train.duration=40ep"]
STREAMED = ["data.stream=true", "data.shuffle_rows=256"]
SETTINGS: dict[str, list[str]] = {
    "SURE+ (F-SAM, EMA), ZeRO-0": ["digits_demo", "train.zero_stage=0"],
    "AdamW, ZeRO-1": ["digits_ce", *ADAMW, "train.zero_stage=1"],
    "RAT, ZeRO-2": ["digits_ce", *RAT, "train.zero_stage=2"],
    "SURE+ (F-SAM, EMA), ZeRO-3": ["digits_demo", "train.zero_stage=3"],
    "SURE+ (F-SAM, EMA), ZeRO-1": ["digits_demo", "train.zero_stage=1"],
    "AdamW, ZeRO-3": ["digits_ce", *ADAMW, "train.zero_stage=3"],
    "SURE+ (F-SAM, EMA) of a ViT, ZeRO-2": ["digits_demo", *SMOOTH, "train.zero_stage=2"],
    "SGD of a ViT, ZeRO-3": ["digits_ce", *SMOOTH, "train.zero_stage=3"],
    "AdamW, ZeRO-3, streamed": ["digits_ce", *ADAMW, "train.zero_stage=3", *STREAMED],
}
PATIENCE = 240.0  # seconds for a run to go on


def command(setting: str, output: Path | str, name: str, *changes: str) -> list[str]:
    """The command that trains a run of a setting."""
    recipe, *settings = SETTINGS[setting]
    return [*RTK, recipe, *SMALL, *settings, *changes, f"output={output}", "--name", name]


def reference_folder(folder: Path, setting: str) -> RunFolder:
    """Where the run of a setting that nothing disturbs is."""
    return RunFolder(folder / f"reference-{list(SETTINGS).index(setting)}")


def is_finished(run: RunFolder) -> bool:
    """Whether a run has ended well."""
    return (run.read_json("status.json") or {}).get("status") == "FINISHED"


def reference_run(folder: Path, setting: str) -> RunFolder:
    """A finished run of a setting that nothing has disturbed, on this machine and its disk."""
    run = reference_folder(folder, setting)
    if not is_finished(run):
        shutil.rmtree(run.path, ignore_errors=True)
        program = command(setting, folder, run.name)
        done = subprocess.run(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        if done.returncode:
            raise SystemExit(f"{run.path}: the undisturbed run failed: {done.stderr}")
    return run


@contextmanager
def environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Other environment variables of this process and what it starts, while the body runs."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Kept:
    """A run that `rtk train --keep-alive` keeps going; on leaving, what is left of it is ended.

    Args:
        run: its folder, or the working copy of that.
        command: that trains it.
        log: file for what it says.
    """

    look_every = 0.002  # seconds

    def __init__(self, run: RunFolder, command: Sequence[str], log: Path) -> None:
        self.run, self.command = run, command
        self.log = log.open("w", encoding="utf-8")
        self.start(command)

    def start(self, command: Sequence[str]) -> None:
        """Begin to keep it alive."""
        self.keeper = self.launch([*command, "--keep-alive"], self.log)

    def launch(self, command: Sequence[str], log: IO[str]) -> Any:
        """Start a program."""
        return psutil.Popen(command, stdout=log, stderr=log)

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_up():
            end_tree(self.keeper.pid)
        self.log.close()

    def is_up(self) -> bool:
        """Whether somebody keeps it alive."""
        return self.keeper.poll() is None

    def wait(self) -> int | None:
        """Its exit code; None: it has not ended in time."""
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            code: int = self.keeper.wait(2 * PATIENCE)
            return code
        return None

    def waited_for(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
        """Whether something has come about before the run has ended, and in time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.is_up():
            with suppress(OSError, ValueError, psutil.Error):  # what is read is being replaced
                if condition():
                    return True
            time.sleep(self.look_every)
        return False


def told(kill: Row) -> Row:
    """A kill, of which is said that it has been: its run may take minutes more."""
    print(json.dumps(kill), file=sys.stderr, flush=True)
    return kill


def end_tree(pid: int) -> None:
    """Kill a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        above = psutil.Process(pid)
        processes = [above, *above.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)


# ---------------------------------------------------------------- what is seen of a run


def ranks_of(run: RunFolder) -> tuple[tuple[str, int, float], ...]:
    """Host, process and start of each worker, by their pulses; nothing where some are not there yet."""
    pulses: list[Row] = []
    with suppress(OSError, ValueError):  # what is read is being replaced
        files = sorted((run.path / "ranks").glob("*.json"))
        pulses = [json.loads(file.read_text("utf-8")) for file in files]
    ranks = pulses[0]["ranks"] if pulses else 0
    found = tuple((pulse["host"], pulse["pid"], pulse["started"]) for pulse in pulses[:ranks])
    return found if len(found) == ranks else ()  # a larger group may have been before


def has_told(run: RunFolder, ranks: Sequence[tuple[str, int, float]]) -> bool:
    """Whether a step of these workers has been told of."""
    return bool(ranks) and (run.path / "progress.json").stat().st_mtime > max(rank[2] for rank in ranks)


def trains(run: RunFolder, workers: int | None = 2) -> bool:
    """Whether all workers of a run live here and have told of a step; None: however many there are."""
    ranks = ranks_of(run)
    alive = [psutil.Process(pid).create_time() == started for _, pid, started in ranks]
    return workers in (None, len(ranks)) and all(alive) and has_told(run, ranks)


def step_of(run: RunFolder) -> int:
    """The last step that has been told of."""
    with suppress(OSError, ValueError):
        return int((run.read_json("progress.json") or {}).get("step", 0))
    return 0


def is_saving(run: RunFolder) -> bool:
    """Whether there is a checkpoint without a manifest, which is written last."""
    folders = [path for path in run.checkpoints.glob("[0-9]*") if path.is_dir()]
    return any(not (folder / "manifest.json").exists() for folder in folders)


def below(above: psutil.Process, word: str) -> list[psutil.Process]:
    """Processes below one whose command has a word."""
    found = []
    for process in above.children(recursive=True):
        with suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found
