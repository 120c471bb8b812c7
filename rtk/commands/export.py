"""`rtk export`: package a run."""

from __future__ import annotations

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk export`."""
    parser = add_command(
        commands,
        "export",
        run,
        "package a run with its scores and decision rule, as a folder and an MLflow model",
        """rtk evaluate RUN --risk 0.02
        rtk export RUN
        rtk export RUN --register flowers""",
    )
    parser.add_argument("run", help="evaluated run with a decision rule: its folder, its name, or last")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="where images are now, such as data.train=PATH",
    )
    parser.add_argument("--register", metavar="NAME", help="register it under this name in MLflow")
    parser.add_argument("--no-mlflow", action="store_true", help="write the folder only")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk export`."""
    from rtk.config.errors import ConfigError
    from rtk.deploy.export import export_run, log_to_mlflow
    from rtk.runs.folder import RunFolder
    from rtk.tracking.names import mlflow_model

    if options.register and options.no_mlflow:
        raise ConfigError("--register: cannot be combined with --no-mlflow")
    if options.register is not None and mlflow_model(options.register) != options.register:
        raise ConfigError(
            f"--register: got {options.register!r}, wanted a name without / and :, as MLflow's models have"
        )
    run = RunFolder.open(options.run, options.output)
    folder = export_run(run, options.checkpoint, options.overrides)
    uri = None if options.no_mlflow else log_to_mlflow(run, folder, options.register)
    if options.json:
        print_json({"folder": str(folder), "mlflow": uri})
        return 0
    print(f"exported: {folder}")
    if uri is not None:
        print(f"MLflow: {uri}")
    print(f"next: rtk predict {run.place} IMAGES")
    return 0
