"""`rtk status`: how a run stands right now, or all of them; again and again with `--watch`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands.output import duration, print_aligned, print_json, say
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive

if TYPE_CHECKING:
    from rtk.runs.standing import Standing

EVERY_SECONDS = 2
CLEAR = "\033[2J\033[H"
HEADINGS = ["run", "state", "step", "epoch", "images/s", "data wait", "memory", "checkpoint", "stragglers"]


def add(commands: Parsers) -> None:
    """The parser of `rtk status`."""
    parser = add_command(
        commands,
        "status",
        status,
        "show how a run stands: step, speed, data wait, memory, ranks, age of its checkpoint",
        """rtk status last
        rtk status s3://BUCKET/runs/NAME --watch
        rtk status --all --output /shared/runs""",
    )
    parser.add_argument(
        "run", nargs="?", help="run, or sweep: its trials; folder, URI, name under --output, or last"
    )
    parser.add_argument(
        "--all", action="store_true", help="all runs of --output, and the trials of its sweeps"
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive,
        const=EVERY_SECONDS,
        metavar="SECONDS",
        help=f"show it anew every so many seconds, {EVERY_SECONDS} by default, while anything runs",
    )
    add_json(parser)


def status(options: Options) -> int:
    """`rtk status`."""
    from rtk.config.errors import ConfigError

    if bool(options.run) == options.all:
        raise ConfigError("status: wanted a run, or --all")
    if options.watch and options.json:
        raise ConfigError("--watch: cannot be combined with --json")
    while True:
        found, is_one = _standings(options)
        if options.json:
            print_json(asdict(found[0]) if is_one else [asdict(one) for one in found])
            return 0
        if options.watch and sys.stdout.isatty():
            print(CLEAR, end="")
        say("\n".join(_lines(found[0]))) if is_one else _print_all(found)
        if not options.watch or all(one.status != "running" for one in found):
            return 0
        time.sleep(options.watch)


def _standings(options: Options) -> tuple[list[Standing], bool]:
    """How what was asked for stands, and whether that is one run."""
    from rtk.runs.folder import RunFolder
    from rtk.runs.standing import read_standing
    from rtk.runs.sweep import SWEEP_FILE, folders_to_sync, runs_of

    if options.all:
        found = folders_to_sync(_output(options.output))
        runs = [run for run in found if not (run.path / SWEEP_FILE).exists()]
        return [read_standing(run) for run in runs], False
    path = _folder(options.run, options.output)
    if (path / SWEEP_FILE).exists():
        return [read_standing(run) for run in runs_of(RunFolder(path))], False
    return [read_standing(RunFolder(path))], True


def _output(output: str) -> Path:
    from rtk.config.errors import ConfigError
    from rtk.runs.working_copy import but_large, local_folder, pull_runs

    folder = local_folder(output)
    pull_runs(folder, but_large)
    if not folder.is_dir():
        raise ConfigError(f"--output: there is no folder {output!r}")
    return folder


def _folder(name: str, output: str) -> Path:
    from rtk.config.errors import ConfigError
    from rtk.runs.names import find_folder
    from rtk.runs.sweep import SWEEP_FILE

    path = find_folder(name, output, "config.yaml", SWEEP_FILE)
    if path is None:
        raise ConfigError(f"run: got {name!r}, wanted a run or a sweep, or a name under {output}/")
    return path


def _lines(one: Standing) -> Iterator[str]:
    """One run, a fact a line."""
    heard = "" if one.heard is None else f", driver on {one.host}, heard of {duration(one.heard)} ago"
    yield f"{one.run}: {one.phase or one.status}{heard if one.status in ('running', 'lost') else ''}"
    left = "" if one.seconds_left is None else f", {duration(one.seconds_left)} left"
    yield f"step: {_of(one.step, one.steps)}, epoch {_of(round(one.epoch, 2), one.epochs)}{left}"
    speed = [f"{name}: {shown}" for name, shown in _speeds(one).items() if shown != "–"]
    yield from speed
    yield f"last checkpoint: {_checkpoint(one)}"
    for rank in one.ranks:
        yield _rank(rank)
    for number, reason in one.stragglers.items():
        yield f"straggler: rank {number} {reason}"
    if one.notice:
        yield f"last notice: {one.notice}"


def _rank(rank: Any) -> str:
    gpu = f", GPU {rank['gpu_memory_gib']:.1f} GiB" if "gpu_memory_gib" in rank else ""
    silent = f", silent for {duration(rank['silent'])}" if rank["silent"] >= 10 else ""
    return (
        f"rank {rank['rank']} on {rank['host']}: step {rank['step']:,}, data wait {rank['data_wait']:.0%}, "
        f"in collectives {rank['collective']:.0%}, memory {rank['memory_gib']:.1f} GiB{gpu}{silent}"
    )


def _speeds(one: Standing) -> dict[str, str]:
    formats: dict[str, tuple[str, Callable[[float], str]]] = {
        "images/s": ("images_per_second", "{:,.0f}".format),
        "data wait": ("data_wait", "{:.0%}".format),
        "memory": ("memory_gib", "{:.1f} GiB".format),
        "GPU memory": ("gpu_memory_gib", "{:.1f} GiB".format),
    }
    known = one.figures
    return {name: show(known[key]) if key in known else "–" for name, (key, show) in formats.items()}


def _of(done: float, total: float | None) -> str:
    return f"{done:,g}" if total is None else f"{done:,g} of {total:,g}"


def _checkpoint(one: Standing) -> str:
    if one.checkpoint_step is None:
        return "none"
    age = "" if one.checkpoint_age is None else f", {duration(one.checkpoint_age)} ago"
    return f"step {one.checkpoint_step:,}{age}"


def _print_all(found: list[Standing]) -> None:
    """A row for each run."""
    rows = []
    for one in found:
        speeds, behind = _speeds(one), ", ".join(map(str, one.stragglers)) or "–"
        facts = [
            one.run,
            one.phase or one.status,
            _of(one.step, one.steps),
            _of(round(one.epoch, 2), one.epochs),
        ]
        rows.append([*facts, *(speeds[name] for name in HEADINGS[4:7]), _checkpoint(one), behind])
    print_aligned([HEADINGS, *rows], is_text=(0, 1))
