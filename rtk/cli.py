"""The `rtk` command: what can be typed. What is done is in `rtk.commands`, imported only when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import TypeAlias

from rtk import __version__

FAILED, BAD_USAGE = 1, 2
OVERRIDE = re.compile(r"^[\w.]+=")

DESCRIPTION = """Train image classifiers that know when they are wrong, and prove it.

examples:
  rtk demo                                          the whole story in under 3 minutes, no download
  rtk train digits_demo train.duration=3ep          train a recipe, with overrides
  rtk evaluate RUN --ood near:cats=data/cats        scores and metrics on OOD sets
  rtk report RUN OTHER_RUN                          a page that sets runs side by side
  rtk export RUN && rtk predict RUN photos/         use it: accept, likely-wrong or unfamiliar
"""

Parsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="rtk", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"rtk {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_sweep(commands)
    _add_compare(commands)
    _add_sync(commands)

    _add_export(commands)
    _add_predict(commands)
    _add_data(commands)
    _add_plan(commands)
    _add_recipes(commands)
    _add_doctor(commands)
    _add_completion(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (failed), 2 (bad usage), 130 or 143 (interrupted)."""
    options = _parse(arguments)
    try:
        commands = importlib.import_module("rtk.commands")
        code: int = getattr(commands, options.action)(options)
        return code
    except KeyboardInterrupt as interrupt:  # carries the signal where it was another than Ctrl-C's
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        return _say("interrupted", 128 + int(number))
    except BrokenPipeError:  # the reader has gone (`rtk recipes cat x | head`)
        sys.stderr.close()
        return FAILED
    except ValueError as error:
        return _fail(error, BAD_USAGE)
    except Exception as error:
        return _fail(error, FAILED)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; `key=value` may stand anywhere, which argparse refuses after an option."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    wrong = [text for text in rest if not OVERRIDE.match(text)]
    if rest and (wrong or not hasattr(options, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _fail(error: Exception, code: int) -> int:
    if os.environ.get("RTK_DEBUG"):
        raise error
    named = f"{error}" if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {error}"
    return _say(f"error: {named}" + ("" if code == BAD_USAGE else " (RTK_DEBUG=1 shows the traceback)"), code)


def _say(text: str, code: int) -> int:
    print(f"rtk: {text}", file=sys.stderr)
    return code


def _add(commands: Parsers, name: str, action: str, summary: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="examples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(action=action)
    return parser


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def _add_demo(commands: Parsers) -> None:
    parser = _add(
        commands,
        "demo",
        "demo",
        "train and compare a baseline and SURE+ on pictures that ship with scikit-learn",
        """rtk demo
        rtk demo --seeds 5
        rtk demo --json --out /tmp/demo""",
    )
    parser.add_argument("--seeds", type=_positive, default=1, metavar="N", help="repeat with seeds 0..N-1")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder for the runs (default: runs)")
    _json(parser)


def _add_train(commands: Parsers) -> None:
    parser = _add(
        commands,
        "train",
        "train",
        "train a recipe on Ray Train workers, sharded by DeepSpeed",
        """rtk train digits_demo
        rtk train digits_demo train.workers=1 sharpness.rho=0.1
        rtk train my_recipe.yaml --print-config
        rtk train my_recipe.yaml --dry-run
        rtk train --resume digits_demo-20261121-101500-ab12 train.duration=20ep""",
    )
    parser.add_argument("recipe", nargs="?", help="a shipped recipe (rtk recipes ls) or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values over the recipe's")
    parser.add_argument("--resume", metavar="RUN", help="continue a run from its last checkpoint")
    parser.add_argument(
        "--output", default="runs", metavar="DIR", help="where --resume looks for a run's name"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved config with origins and stop"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="one step of everything, in a temporary folder"
    )
    _json(parser)


def _add_evaluate(commands: Parsers) -> None:
    parser = _add(
        commands,
        "evaluate",
        "evaluate",
        "measure a run: predictions, scores, metrics for every OOD set",
        """rtk evaluate RUN
        rtk evaluate RUN --suite cifar100 --scores all
        rtk evaluate RUN --ood cifar10=data/cifar10/test.parquet --ood far:xrays=data/xrays
        rtk evaluate RUN --protocol aps --validation-ood data/places.parquet
        rtk evaluate RUN --risk 0.02                  thresholds for 2 % wrong among the accepted
        rtk evaluate RUN --corruptions 1000           15 corruptions x 5 severities of 1,000 test images
        rtk evaluate RUN --scores msp energy --bootstrap 1000 --json""",
    )
    parser.add_argument("run", help="run folder, or its name under --output")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config overrides of evaluate.*")
    _add_evaluated_sets(parser)
    parser.add_argument(
        "--scores",
        nargs="+",
        metavar="SCORE",
        help="scores to compare; sure_plus: those of SURE+'s tables, all: every one (default: the recipe's)",
    )
    parser.add_argument(
        "--protocol",
        choices=["fixed", "aps", "rat_splits"],
        help="how hyper-parameters of scores are found (default: the recipe's, fixed)",
    )
    parser.add_argument(
        "--risk", type=float, metavar="R", help="choose thresholds for this share of wrong accepted images"
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="95 %% intervals from N resamples (evaluate.ds_method=grid makes them faster)",
    )
    parser.add_argument(
        "--corruptions",
        nargs="?",
        type=_positive,
        const=0,
        metavar="ROWS",
        help="measure common corruptions, of the first ROWS test images (default: of all)",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    _json(parser)


def _add_evaluated_sets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        metavar="SUITE",
        help="OOD sets of a benchmark: cifar10, cifar100, imagenet1k, ... or a YAML file",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out sets of the suite that are not there"
    )
    parser.add_argument(
        "--ood",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=PATH",
        help="OOD test set; near:NAME=PATH or far:NAME=PATH where NAME is in no shipped suite",
    )
    parser.add_argument("--test", metavar="PATH", help="in-distribution test set (default: the recipe's)")
    parser.add_argument("--validation-ood", metavar="PATH", help="OOD images to tune on, never to test on")


def _add_report(commands: Parsers) -> None:
    parser = _add(
        commands,
        "report",
        "report",
        "write an HTML page with tables and plots of evaluated runs",
        """rtk report RUN
        rtk report BASELINE_RUN RUN --out comparison.html
        rtk report BASELINE_RUN RUN --table results.tex results.csv""",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="evaluated runs, the baseline first")
    parser.add_argument("--out", metavar="FILE", help="default: evaluation/report.html of the last run")
    parser.add_argument(
        "--table",
        nargs="+",
        default=[],
        metavar="FILE",
        help="also a table of all runs: FILE.csv, .json, .md, .tex or .html",
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="where run names are looked for")
    _json(parser)


def _add_sweep(commands: Parsers) -> None:
    parser = _add(
        commands,
        "sweep",
        "sweep",
        "search for hyper-parameters: Optuna proposes, Ray Tune runs many trials at a time",
        """rtk sweep search_spaces/small.yaml digits_demo
        rtk sweep search_spaces/sure_plus.yaml digits_demo --trials 100 train.workers=1
        rtk sweep --resume NAME
        rtk sweep --resume NAME --trials 200""",
    )
    parser.add_argument("space", nargs="?", metavar="SPACE", help="search space, a YAML file")
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="shipped recipe or YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all trials, over the recipe")
    parser.add_argument("--resume", metavar="NAME", help="go on with a sweep that was stopped or killed")
    parser.add_argument("--name", help="name of the sweep (default: made of the recipe's)")
    parser.add_argument("--trials", type=_positive, metavar="N", help="instead of the search space's number")
    parser.add_argument("--concurrent", type=_positive, metavar="N", help="trials at a time")
    parser.add_argument("--sampler", choices=["tpe", "gp", "nsga2", "random"])
    parser.add_argument("--scheduler", choices=["asha", "hyperband", "none"])
    parser.add_argument("--output", default="runs", metavar="DIR", help="where --resume looks for a name")
    _json(parser)


def _add_compare(commands: Parsers) -> None:
    parser = _add(
        commands,
        "compare",
        "compare",
        "set runs, a sweep's trials or an experiment side by side, seeds taken together",
        """rtk compare BASELINE_RUN RUN RUN
        rtk compare --sweep NAME --html sweep.html
        rtk compare --experiment rtk --where "params.model.width = 8 and metrics.accuracy > 0.9"
        rtk compare runs/digits_* --csv runs.csv""",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs, those of the baseline first")
    parser.add_argument("--sweep", metavar="NAME", help="the trials of a sweep")
    parser.add_argument("--experiment", metavar="NAME", help="all runs of a tracking.experiment")
    parser.add_argument(
        "--where", metavar="CONDITIONS", help="params.KEY = VALUE, metrics.NAME < VALUE, and ..."
    )
    parser.add_argument(
        "--metrics", nargs="+", default=[], metavar="NAME", help="columns (default: a handful)"
    )
    parser.add_argument("--sort", metavar="NAME", help="metric to sort by (default: objective, or DS-AURC)")
    parser.add_argument("--html", metavar="FILE", help="write a self-contained page with figures")
    parser.add_argument("--csv", metavar="FILE", help="write all metrics and differing params, a row a run")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where names are looked for")
    _json(parser)


def _add_sync(commands: Parsers) -> None:
    parser = _add(
        commands,
        "sync",
        "sync",
        "send to MLflow what could not be sent while a run or a sweep was going on",
        """rtk sync
        rtk sync runs/NAME
        rtk sync --output /shared/runs""",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs or sweeps (default: all under --output)")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of the runs (default: runs)")
    _json(parser)


def _add_export(commands: Parsers) -> None:
    parser = _add(
        commands,
        "export",
        "export",
        "package a run with its scores and decision rule, as a folder and an MLflow model",
        """rtk evaluate RUN --risk 0.02
        rtk export RUN
        rtk export RUN --register flowers""",
    )
    parser.add_argument("run", help="evaluated run with a decision rule: its folder, or its name")
    parser.add_argument("--register", metavar="NAME", help="register it under this name in MLflow")
    parser.add_argument("--no-mlflow", action="store_true", help="write the folder only")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    _json(parser)


def _add_predict(commands: Parsers) -> None:
    parser = _add(
        commands,
        "predict",
        "predict",
        "say of images what they show, and whether to trust it: accept, likely-wrong or unfamiliar",
        """rtk predict RUN photo.jpg more_photos/
        rtk predict models:/flowers/1 photos/ --jsonl > predictions.jsonl
        rtk predict RUN/export test.parquet""",
    )
    parser.add_argument("model", help="exported run, its export folder, or an MLflow URI")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image or Parquet file, or folder of them")
    parser.add_argument("--jsonl", action="store_true", help="print one JSON object a line, one an image")


def _add_data(commands: Parsers) -> None:
    data = commands.add_parser("data", help="prepare and look at image sets")
    actions = data.add_subparsers(dest="data_command", metavar="ACTION", required=True)
    prepare = _add(
        actions,
        "prepare",
        "data_prepare",
        "turn image folders, CIFAR archives, MNIST idx files or Parquet into rtk's Parquet",
        """rtk data prepare photos/ --out data/photos
        rtk data prepare cifar-100-python.tar.gz --out data/cifar100
        rtk data prepare photos/ --out data/photos --skip-bad""",
    )
    prepare.add_argument("source", help="folder, archive or Parquet")
    prepare.add_argument("--out", required=True, metavar="DIR", help="folder to make")
    prepare.add_argument("--skip-bad", action="store_true", help="leave broken images out instead of failing")
    prepare.add_argument("--image-size", type=_positive, metavar="PX", help="resize and crop to this side")
    _json(prepare)
    inspect = _add(
        actions,
        "inspect",
        "data_inspect",
        "show counts, sizes, class balance and a contact sheet of an image set",
        """rtk data inspect data/photos/train.parquet
        rtk data inspect data/photos --sheet sheet.png""",
    )
    inspect.add_argument("path", help="Parquet file or folder")
    inspect.add_argument(
        "--sheet", default="contact_sheet.png", metavar="FILE", help="default: contact_sheet.png"
    )
    inspect.add_argument("--sample", type=_positive, metavar="N", help="look at N images only")
    _json(inspect)
    views = _add(
        actions,
        "views",
        "data_views",
        "draw a contact sheet of the views that a recipe trains on",
        """rtk data views digits_demo
        rtk data views my_recipe.yaml data.augment.crop=resized --out sheet.png""",
    )
    views.add_argument("recipe", help="a shipped recipe (rtk recipes ls) or a YAML file")
    views.add_argument("overrides", nargs="*", metavar="key=value", help="config values over the recipe's")
    views.add_argument("--out", default="views.png", metavar="FILE", help="default: views.png")
    views.add_argument("--images", type=_positive, default=8, metavar="N", help="columns (default: 8)")
    _json(views)


def _add_plan(commands: Parsers) -> None:
    parser = _add(
        commands,
        "plan",
        "plan",
        "memory per rank and communication of a recipe under every ZeRO stage",
        """rtk plan resnet18_cifar100_sure_plus --gpus 1 --gpu-memory 24
        rtk plan my_recipe.yaml model.name=timm/vit_large_patch16_dinov3 --gpus 8 --gpu-memory 80""",
    )
    parser.add_argument("recipe", help="a shipped recipe (rtk recipes ls) or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="config values over the recipe's")
    parser.add_argument("--gpus", type=_positive, metavar="N", help="ranks (default: the recipe's workers)")
    parser.add_argument("--gpu-memory", type=float, default=80.0, metavar="GIB", help="of each (default: 80)")
    parser.add_argument("--classes", type=_positive, metavar="C", help="default: those of data.train")
    _json(parser)


def _add_recipes(commands: Parsers) -> None:
    recipes = commands.add_parser("recipes", help="list, show, copy and check recipes")
    actions = recipes.add_subparsers(dest="recipes_command", metavar="ACTION", required=True)
    _json(_add(actions, "ls", "recipes_ls", "list the shipped recipes", "rtk recipes ls"))
    _add(actions, "cat", "recipes_cat", "print a recipe", "rtk recipes cat digits_demo").add_argument(
        "recipe"
    )
    copy = _add(
        actions, "cp", "recipes_cp", "copy a recipe to edit it", "rtk recipes cp digits_demo mine.yaml"
    )
    copy.add_argument("recipe")
    copy.add_argument("target")
    validate = _add(
        actions,
        "validate",
        "recipes_validate",
        "check a recipe against the schema, without starting anything",
        """rtk recipes validate mine.yaml
        rtk recipes validate digits_demo optimizer.lr=0.1""",
    )
    validate.add_argument("recipe")
    validate.add_argument("overrides", nargs="*", metavar="key=value")


def _add_doctor(commands: Parsers) -> None:
    _json(_add(commands, "doctor", "doctor", "check versions, accelerators and collectives", "rtk doctor"))


def _add_completion(commands: Parsers) -> None:
    parser = _add(
        commands,
        "completion",
        "completion",
        "print a shell completion script",
        """rtk completion bash > ~/.local/share/bash-completion/completions/rtk
        rtk completion zsh > ~/.zfunc/_rtk""",
    )
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def _positive(text: str) -> int:
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"got {text}, wanted a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
