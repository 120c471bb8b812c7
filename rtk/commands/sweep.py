"""`rtk sweep`: search for hyper-parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive

if TYPE_CHECKING:
    from rtk.runs.results import Entry
    from rtk.runs.sweep import Sweep
    from rtk.tune.summary import SweepSummary


def add(commands: Parsers) -> None:
    """The parser of `rtk sweep`."""
    parser = add_command(
        commands,
        "sweep",
        run,
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
    parser.add_argument("--trials", type=positive, metavar="N", help="instead of the search space's number")
    parser.add_argument("--concurrent", type=positive, metavar="N", help="trials at a time")
    parser.add_argument("--sampler", choices=["tpe", "gp", "nsga2", "random"])
    parser.add_argument("--scheduler", choices=["asha", "hyperband", "pbt", "none"])
    parser.add_argument("--output", metavar="DIR", help="folder of the runs (default: the recipe's, runs)")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk sweep`."""
    from rtk.config import search_space as spaces
    from rtk.config.errors import ConfigError
    from rtk.config.overrides import override_text
    from rtk.report.sweep_page import write_sweep_page
    from rtk.runs.sweep import Sweep
    from rtk.tune import sweep as sweeps
    from rtk.tune.summary import summarise

    changes = {key: getattr(options, key) for key in ("trials", "concurrent") if getattr(options, key)}
    if options.resume:
        # With --resume the first positionals are overrides, no search space and no recipe.
        overrides = [text for text in (options.space, options.recipe, *options.overrides) if text]
        if options.sampler or options.scheduler or options.name:
            raise ConfigError("--resume: only --trials, --concurrent and the places of images may change")
        sweep = Sweep.open(options.resume, options.output or "runs")
        done = sweeps.resume_sweep(sweep, changes, write_sweep_page, overrides)
    else:
        if not options.space or not options.recipe:
            raise ConfigError("sweep: wanted a search space and a recipe, or --resume NAME")
        changes |= {f"{k}.name": v for k in ("sampler", "scheduler") if (v := getattr(options, k))}
        space = spaces.load_space(options.space, changes)
        overrides = [
            *options.overrides,
            *([override_text("output", options.output)] if options.output else []),
        ]
        config = spaces.base_config(space, options.recipe, overrides)
        given = [options.recipe, *overrides]
        done = sweeps.launch_sweep(space, config, options.name, write_sweep_page, given)
    summary = summarise(done)
    if options.json:
        print_json({"sweep": done.name, "path": str(done.path), **summary.plain()})
    else:
        print("\n".join([f"finished: {done.path}", *_ending(done, summary)]))
    return 0


def _ending(sweep: Sweep, summary: SweepSummary) -> list[str]:
    """What a person wants to know once a sweep is over."""
    lines = []
    if summary.best is not None:
        lines.append(f"best: {_trial(summary, summary.best)}")
        lines += [f"  {key}: {value}" for key, value in summary.values.items()]
    if summary.default is not None:
        lines.append(f"the recipe's own values: {_trial(summary, summary.default)}")
    if summary.command is not None:
        lines.append(f"train it in full: {summary.command}")
    return [*lines, f"report: {sweep.path / 'evaluation' / 'report.html'}"]


def _trial(summary: SweepSummary, trial: Entry) -> str:
    from rtk.report.comparison_table import named_metrics

    state, number = trial.attributes["state"], trial.attributes["number"]
    reached = {name: trial.metrics[name] for name in summary.objectives if name in trial.metrics}
    early = {"complete": "", "pruned": " (stopped early)"}.get(state, f" ({state})")
    return f"trial {number}{early}, {named_metrics(reached)}".rstrip(", ")
