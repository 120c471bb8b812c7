"""`rtk checkpoints`: list those of a run, verify them, delete what nothing needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rtk.commands.output import print_aligned, print_json, say
from rtk.commands.parsers import Options, Parsers, add_command, add_json

DAMAGED = 1  # exit code where one is


def add(commands: Parsers) -> None:
    """The parser of `rtk checkpoints`."""
    parser = add_command(
        commands,
        "checkpoints",
        checkpoints,
        "list the checkpoints of a run: step, size, metrics, and with --verify whether they are whole",
        "rtk checkpoints last\nrtk checkpoints RUN --verify\nrtk checkpoints RUN --prune",
    )
    parser.add_argument("run", help="run: its folder, its name under --output, or last")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--verify", action="store_true", help="read every file and compare it with what was written"
    )
    parser.add_argument(
        "--prune", action="store_true", help="delete all but last and best; none of a run that is running"
    )
    add_json(parser)


def checkpoints(options: Options) -> int:
    """`rtk checkpoints`."""
    from rtk.runs.folder import RunFolder

    run = RunFolder.open(options.run, options.output)
    deleted = _pruned(run) if options.prune else []
    found = [_record(folder, names, options.verify) for folder, names in _named(run.checkpoints)]
    broken = _broken_aliases(run.checkpoints)
    if options.json:
        print_json({"checkpoints": found, "broken": broken, "deleted": deleted})
    else:
        _print(found, broken, deleted)
    return DAMAGED if broken or any(one["faults"] for one in found) else 0


def _pruned(run: Any) -> list[str]:
    from rtk.config.errors import ConfigError
    from rtk.runs.checkpoint_faults import faults_of
    from rtk.runs.checkpoints import prune
    from rtk.runs.listing import is_running

    if is_running(run):
        raise ConfigError(f"--prune: {run.name} is running, wanted a run that has ended")
    damaged = faults_of(run.checkpoints / "last")
    if damaged:  # what is older may be what it goes on from
        raise ConfigError(f"--prune: last is damaged ({damaged[0]}), rtk train --resume goes on from another")
    return [path.name for path in prune(run.checkpoints, kept=0)]


def _named(folder: Path) -> list[tuple[Path, list[str]]]:
    """Folders with their aliases, which in runs of earlier versions are folders themselves."""
    from rtk.runs.checkpoints import NUMBERED, STATE, aliases, numbered, pointer_file

    pointing = aliases(folder)
    there = [path for path in sorted(folder.glob("*")) if (path / STATE).is_file()]
    earlier = [path for path in there if not NUMBERED.fullmatch(path.name)]
    old = [(path, [] if pointer_file(path).exists() else [path.name]) for path in earlier]
    return old + [(path, pointing.get(path.name, [])) for path in numbered(folder)]


def _broken_aliases(folder: Path) -> list[str]:
    from rtk.runs.checkpoints import CheckpointError, resolve_checkpoint

    broken = []
    for pointer in sorted(folder.glob("*.json")):
        try:
            resolve_checkpoint(pointer.with_suffix(""))
        except CheckpointError as error:
            broken.append(str(error))
    return broken


def _record(folder: Path, names: list[str], verify: bool) -> dict[str, Any]:
    from rtk.runs.checkpoint_faults import faults
    from rtk.runs.checkpoints import MANIFEST, CheckpointError, read_manifest
    from rtk.runs.working_copy import size_of

    found: Mapping[str, Any] = {}
    has_manifest = (folder / MANIFEST).is_file()
    with suppress(CheckpointError):  # among the faults
        found = read_manifest(folder) if has_manifest else {}
    return {
        "name": folder.name,
        "aliases": names,
        "step": found.get("step", _step(folder)),
        "saved": found.get("saved"),
        "bytes": size_of(folder),
        "workers": found.get("world_size"),
        "metrics": found.get("metrics"),
        "faults": faults(folder, contents=verify, every_byte=True),
        "verified": verify and has_manifest,
    }


def _step(folder: Path) -> int | None:
    """Step of a checkpoint without a manifest."""
    from rtk.runs.checkpoints import STATE

    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads((folder / STATE).read_text(encoding="utf-8"))["step"])
    return None


def _print(found: list[dict[str, Any]], broken: list[str], deleted: list[str]) -> None:
    from rtk.report.comparison_table import named_metrics

    for name in deleted:
        say(f"deleted: {name}")
    if found:
        print_aligned([["checkpoint", "is", "step", "saved", "size", "state"], *map(_cells, found)])
    for one in found:
        if one["metrics"]:
            say(f"{one['name']}: {named_metrics(one['metrics'])}")
        for fault in one["faults"]:
            say(f"{one['name']}: {fault}")
    for line in broken:
        say(line)
    if not found and not broken:
        say("no checkpoint yet")


def _cells(one: dict[str, Any]) -> list[str]:
    state = "damaged" if one["faults"] else "whole" if one["verified"] else "not verified"
    names = ", ".join(one["aliases"])
    return [one["name"], names, str(one["step"]), one["saved"] or "", f"{one['bytes'] / 1e6:,.1f} MB", state]
