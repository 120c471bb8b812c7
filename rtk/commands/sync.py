"""`rtk sync`: send to MLflow what it missed."""

from __future__ import annotations

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk sync`."""
    parser = add_command(
        commands,
        "sync",
        run,
        "send to MLflow what could not be sent while a run or a sweep was going on",
        """rtk sync
        rtk sync runs/NAME
        rtk sync --output /shared/runs""",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs or sweeps (default: all under --output)")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of the runs (default: runs)")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk sync`."""
    from rtk.config.errors import ConfigError
    from rtk.runs.folder import RunFolder
    from rtk.runs.names import find_folder
    from rtk.runs.sweep import SWEEP_FILE, folders_to_sync, runs_of
    from rtk.runs.working_copy import local_folder, pull_runs
    from rtk.tracking.sending import sync as send_all

    output = local_folder(options.output)
    if not options.runs:
        pull_runs(output)
        if not output.is_dir():
            raise ConfigError(f"--output: there is no folder {options.output!r}")
    chosen: list[RunFolder] = []
    for name in options.runs:
        path = find_folder(name, options.output, "config.yaml", SWEEP_FILE)
        if path is None:
            wanted = f"a run or a sweep, or a name under {options.output}/"
            raise ConfigError(f"run: got {name!r}, wanted {wanted}")
        chosen += [RunFolder(path), *runs_of(RunFolder(path))]
    outcome = send_all(chosen if options.runs else folders_to_sync(output))
    if options.json:
        print_json(outcome)
    else:
        for name, sent in outcome.items():
            print(f"{name}: {sent} rows sent" if isinstance(sent, int) else f"{name}: not sent, {sent}")
    return 0 if all(isinstance(sent, int) for sent in outcome.values()) else 1
