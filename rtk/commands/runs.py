"""`rtk runs`: list, show and delete runs and sweeps."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands.output import print_aligned, print_json, say
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.runs.listing import Listed

COLUMNS = ("accuracy", "aurc", "ds_aurc_near", "ds_aurc_far")


def add(commands: Parsers) -> None:
    """The parser of `rtk runs`."""
    runs = commands.add_parser("runs", help="list, show and delete runs and sweeps")
    actions = runs.add_subparsers(dest="runs_command", metavar="ACTION", required=True)
    listing = add_command(
        actions,
        "ls",
        ls,
        "list runs and sweeps: status, recipe, epoch, headline metrics, age and size",
        "rtk runs ls\nrtk runs ls --output /shared/runs --json",
    )
    shown = add_command(
        actions, "show", show, "show one run or sweep", "rtk runs show last\nrtk runs show NAME --json"
    )
    shown.add_argument("run", help="run or sweep: its folder, its name under --output, or last")
    removed = add_command(
        actions,
        "rm",
        rm,
        "delete runs and sweeps, after asking; MLflow keeps what it has been sent",
        "rtk runs rm NAME\nrtk runs rm runs/digits_* --yes",
    )
    removed.add_argument("runs", nargs="+", metavar="RUN", help="runs or sweeps; none that is running")
    removed.add_argument("--yes", action="store_true", help="do not ask")
    for parser in (listing, shown, removed):
        parser.add_argument(
            "--output", default="runs", metavar="DIR", help="folder of the runs (default: runs)"
        )
        add_json(parser)


def ls(options: Options) -> int:
    """`rtk runs ls`."""
    from rtk.config.errors import ConfigError
    from rtk.report.tables import how_shown
    from rtk.runs.listing import list_runs
    from rtk.runs.working_copy import but_large, local_folder, pull_runs

    output = local_folder(options.output)
    pull_runs(output, but_large)
    if not output.is_dir():
        raise ConfigError(f"--output: there is no folder {options.output!r}")
    found = list_runs(output)
    if options.json:
        print_json([_record(one) for one in found])
        return 0
    headings = [
        "run",
        "status",
        "recipe",
        "epoch",
        *(how_shown(key).heading for key in COLUMNS),
        "age",
        "size",
    ]
    print_aligned([headings, *map(_cells, found)])
    if any(cell.startswith("(") for one in found for cell in _cells(one)):
        say("in brackets: on validation images, for want of an evaluation")
    return 0


def show(options: Options) -> int:
    """`rtk runs show`."""
    from rtk.report.comparison_table import cell, heading
    from rtk.runs.folder import RunFolder
    from rtk.runs.listing import read_listed

    found = read_listed(_find(options.run, options.output))
    run = RunFolder(found.path)
    facts = _record(found) | _more(run)
    if options.json:
        print_json(facts)
        return 0
    shown = {**facts, "epoch": _progress(found), "age": _duration(found.age), "size": _bytes(found.size)}
    metrics = shown.pop("metrics")
    for name, value in shown.items():
        if value is not None:
            say(f"{name.replace('_', ' ')}: {value}")
    for key, value in metrics.items():
        say(f"{heading(key)}: {cell(key, [value])}")
    return 0


def rm(options: Options) -> int:
    """`rtk runs rm`."""
    from rtk.config.errors import ConfigError
    from rtk.runs.folder import RunFolder
    from rtk.runs.listing import is_running, read_listed

    paths = list(dict.fromkeys(_find(name, options.output) for name in options.runs))
    for path in paths:
        if is_running(RunFolder(path)):
            raise ConfigError(f"run: {path.name} is running, wanted one that has ended")
    found = [read_listed(path) for path in paths]
    if not options.yes and not _agreed(found):
        print("nothing was deleted", file=sys.stderr)
        return 1
    places = [RunFolder(path).place for path in paths]
    for path in paths:
        _delete(path)
    if options.json:
        print_json({"deleted": places})
    else:
        say("\n".join(f"deleted: {place}" for place in places))
    return 0


def _find(name: str, output: str) -> Path:
    from rtk.config.errors import ConfigError
    from rtk.runs.names import find_folder
    from rtk.runs.sweep import SWEEP_FILE

    path = find_folder(name, output, "config.yaml", SWEEP_FILE)
    if path is None:
        raise ConfigError(f"run: got {name!r}, wanted a run or a sweep, or a name under {output}/")
    return path


def _agreed(found: list[Listed]) -> bool:
    from rtk.config.errors import ConfigError

    if not sys.stdin.isatty():
        raise ConfigError("runs rm: there is no terminal to ask at, wanted --yes")
    names = ", ".join(one.path.name for one in found)
    size = _bytes(sum(one.size for one in found))
    return input(f"delete {names} ({size})? [y/N] ").strip().lower() in ("y", "yes")


def _delete(path: Path) -> None:
    """Delete a folder; it is out of the way at once, also if what follows is interrupted."""
    from rtk.runs.stored_checkpoints import remove_folder
    from rtk.runs.working_copy import OPENED

    OPENED.discard(path)
    remove_folder(path)
    if path.is_symlink():
        path.unlink()
        return
    doomed = path.rename(path.with_name(f".{path.name}.deleted"))
    shutil.rmtree(doomed)


def _record(found: Listed) -> dict[str, Any]:
    from rtk.runs.working_copy import place_of

    return {
        "run": found.path.name,
        "path": place_of(found.path),
        **{key: getattr(found, key) for key in ("kind", "status", "recipe", "epoch", "epochs")},
        "metrics": dict(found.metrics),
        **{key: getattr(found, key) for key in ("age", "size")},
    }


def _more(run: Any) -> dict[str, Any]:
    """What else is known of a run or a sweep."""
    from rtk.runs.origin import said_of

    environment, best = run.read_json("environment.json") or {}, run.read_json("best.json") or {}
    commit = environment.get("commit")
    return {
        "best_step": best.get("step"),
        "origin": said_of(run.path) or None,
        "rtk": environment.get("rtk"),
        "commit": commit and f"{commit['hash']}{', with changes' if commit['dirty'] else ''}",
        "report": _if_there(run.evaluation / "report.html"),
        "export": _if_there(run.path / "export"),
        "mlflow_run": (run.read_json("mlflow.json") or {}).get("run_id"),
    }


def _if_there(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _cells(found: Listed) -> list[str]:
    name = found.path.name
    metrics = [_metric(found, key) for key in COLUMNS]
    progress, age, size = _progress(found), _duration(found.age), _bytes(found.size)
    return [name, found.status, found.recipe, progress, *metrics, age, size]


def _metric(found: Listed, key: str) -> str:
    from rtk.report.tables import format_value

    if key in found.metrics:
        return format_value(key, found.metrics[key])
    value = found.metrics.get(f"val/{key}")
    return "–" if value is None else f"({format_value(key, value)})"


def _progress(found: Listed) -> str:
    if found.status == "imported":
        return "–"
    of = "" if found.epochs is None else f"/{found.epochs:g}"
    return f"{round(found.epoch, 1):g}{of}{' trials' if found.kind == 'sweep' else ''}"


def _duration(seconds: float) -> str:
    """A time in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _bytes(size: int) -> str:
    """A size in its largest unit."""
    for unit, length in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"
