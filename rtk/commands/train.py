"""`rtk train`: train a recipe, resume a run, or only look at what would be done."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands.output import duration, print_json, warn_of_kept_sets
from rtk.commands.parsers import Options, Parsers, add_command, add_json, add_labels_by
from rtk.commands.train_seeds import add_seeds, check_seeds, run_seeds

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.runs.trained import Trained
    from rtk.train.launch import Outcome

EVALUATED_ROWS = 256  # by --dry-run


def add(commands: Parsers) -> None:
    """The parser of `rtk train`."""
    parser = add_command(
        commands,
        "train",
        run,
        "train a recipe on Ray Train workers, sharded by DeepSpeed",
        """rtk train digits_demo
        rtk train digits_demo train.workers=1 sharpness.rho=0.1 --name small_rho
        rtk train my_recipe.yaml --print-config
        rtk train my_recipe.yaml --dry-run
        rtk train digits_demo --seeds 0..4            seeds 0, 1, 2, 3, 4; again: what is not finished yet
        rtk train --resume last train.duration=20ep""",
    )
    parser.add_argument("recipe", nargs="?", help="a shipped recipe (rtk recipes ls) or a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config values over the recipe's"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue a run (or last) from its last checkpoint")
    parser.add_argument("--name", help="name of the run (default: made of the recipe's and the time)")
    add_seeds(parser)
    parser.add_argument(
        "--output", metavar="DIR", help="folder of the runs, or its URI (default: the recipe's, runs)"
    )
    add_labels_by(parser)
    parser.add_argument(
        "--keep-alive",
        action="store_true",
        help="start the run again, from its last checkpoint, wherever its process or Ray is killed",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved config with origins and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="one step of everything, in a temporary folder"
    )
    add_json(parser)


def run(options: Options) -> int:
    """`rtk train`."""
    _check(options)
    if options.output and not options.resume:
        options.overrides.append(f"output={json.dumps(options.output)}")
    if options.labels_by:
        options.overrides.append(f"data.labels_by={options.labels_by}")
    if options.print_config:
        return _print_config(options)
    if options.dry_run:
        return _dry_run(options)
    if options.keep_alive:
        from rtk.commands.train_kept_alive import keep_alive

        return keep_alive(options, None if options.resume else _new_config(options))
    if options.resume:
        return _report(_resume(options), options.json)
    from rtk.runtime.ray_session import prepare_workers

    prepare_workers("rtk.train.forked")  # while this process imports what it needs itself
    config = _new_config(options)
    if options.seeds:
        return run_seeds(options, config)
    from rtk.train.launch import launch_training

    return _report(launch_training(config, options.name), options.json)


def _check(options: Options) -> None:
    """Refuse options that exclude each other.

    Raises:
        ConfigError: naming them.
    """
    from rtk.config.errors import ConfigError

    if options.resume and (options.dry_run or options.print_config):
        raise ConfigError("--resume: cannot be combined with --dry-run or --print-config")
    if options.resume and options.name:
        raise ConfigError("--resume: cannot be combined with --name, the run keeps its own")
    if options.keep_alive and (options.seeds or options.dry_run or options.print_config):
        raise ConfigError("--keep-alive: cannot be combined with --seeds, --dry-run or --print-config")
    if options.seeds:
        check_seeds(options)


def _resume(options: Options) -> Outcome:
    from rtk.runs.folder import RunFolder
    from rtk.train.launch import resume_training

    # With --resume the first positional is an override, not a recipe.
    overrides = [text for text in (options.recipe, *options.overrides) if text]
    return resume_training(RunFolder.open(options.resume, options.output or "runs"), overrides)


def _new_config(options: Options) -> RunConfig:
    """Config of a new run; of sets that it keeps though the training set is another, a warning tells."""
    from rtk.config.load import kept_builtin, load_with_origins
    from rtk.train.launch import open_for_training

    loaded = load_with_origins(_recipe(options), options.overrides)
    if kept_builtin(loaded):
        open_for_training(loaded.config)  # what is wrong with the sets is said first, and alone
        warn_of_kept_sets(loaded)
    return loaded.config


def _report(outcome: Outcome, as_json: bool) -> int:
    """Print how a run has ended, and return the exit code."""
    from rtk.runs.trained import read_trained

    trained = read_trained(outcome.run)
    if as_json:
        summary = {"run": outcome.run.name, "path": str(outcome.run.path), "status": outcome.status}
        print_json({**summary, **outcome.metrics, **asdict(trained), "seconds": outcome.seconds})
    else:
        print("\n".join(_ending(outcome, trained)))
    return 128 + outcome.signal if outcome.status == "interrupted" and outcome.signal else 0


def _ending(outcome: Outcome, trained: Trained) -> list[str]:
    """What a person wants to know once training is over."""
    from rtk.report.comparison_table import named_metrics
    from rtk.runs.checkpoints import has_checkpoint

    lines = [f"{outcome.status}: {outcome.run.place}"]
    if trained.best is not None:
        lines.append(f"best: epoch {trained.best_epoch:g}, {named_metrics(trained.best)}")
    speed = "" if trained.images_per_second is None else f", {trained.images_per_second:,.0f} images/s"
    lines.append(f"time: {duration(outcome.seconds)}{speed}")
    finished = outcome.status == "finished"
    if finished or has_checkpoint(outcome.run.checkpoints / "last"):
        lines.append(f"next: rtk {'evaluate' if finished else 'train --resume'} {outcome.run.place}")
    return lines


def _recipe(options: Options) -> str:
    from rtk.config.errors import ConfigError

    if not options.recipe:
        raise ConfigError("recipe: got none, wanted the name of a recipe or a YAML file (rtk recipes ls)")
    recipe: str = options.recipe
    return recipe


def _print_config(options: Options) -> int:
    from rtk.config.load import flatten, load_with_origins

    loaded = load_with_origins(_recipe(options), options.overrides)
    leaves = dict(flatten(loaded.config.model_dump(mode="json")))
    if options.json:
        print_json({key: {"value": value, "origin": loaded.origins[key]} for key, value in leaves.items()})
        return 0
    width = max(len(f"{key}: {value}") for key, value in leaves.items())
    for key, value in leaves.items():
        print(f"{f'{key}: {value}':<{width}}  # {loaded.origins[key]}")
    return 0


def _dry_run(options: Options) -> int:
    from rtk.config.load import load_with_origins

    done = dry_run(load_with_origins(_recipe(options), options.overrides).config)
    if options.json:
        print_json(done)
    else:
        print("\n".join(f"{name}: {outcome}" for name, outcome in done.items()))
    return 0


def dry_run(config: RunConfig) -> dict[str, str]:
    """Decode, train one step, validate, save, log, evaluate on a few images, report; keep nothing.

    Returns:
        What was done, by name, with its outcome.

    Raises:
        ValueError, TrainingError: as the real run would.
    """
    from rtk.config.load import build_config
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.report.run_page import write_report
    from rtk.report.run_tables import write_run_tables
    from rtk.train.launch import launch_training

    # Beside the real runs, for that is where the workers of a cluster can write too.
    parent = Path(config.output).absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".rtk-dry-run-", dir=parent if parent.is_dir() else None
    ) as folder:
        tree = config.model_dump(mode="json")
        tree["output"] = folder
        tree["tracking"] |= {"uri": None, "checkpoints": False}
        tree["train"]["duration"] = "1steps"
        outcome = launch_training(build_config(tree))
        done = {"training step, validation, checkpoint": outcome.status}
        if config.data.test is None:
            return done | {"evaluation": "skipped, the recipe has no data.test"}
        result = evaluate_run(outcome.run, rows=EVALUATED_ROWS)
        write_run_tables(outcome.run)
        write_report([outcome.run])
        return done | {"evaluation": f"{len(result['sets'])} OOD sets", "report": "written"}
