"""`rtk sweep`: search for hyper-parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtk.commands.output import print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.config.search_space import SearchSpace
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
        rtk sweep search_spaces/sure_plus.yaml resnet18_cifar100_sure_plus --check
        rtk sweep --resume NAME
        rtk sweep --resume NAME --trials 200""",
    )
    parser.add_argument("space", nargs="?", metavar="SPACE", help="search space, a YAML file")
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="shipped recipe or YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="for all trials, over the recipe"
    )
    parser.add_argument("--resume", metavar="NAME", help="go on with a sweep that was stopped or killed")
    parser.add_argument(
        "--check", action="store_true", help="say what it would do, and stop before Ray starts"
    )
    parser.add_argument(
        "--suite",
        metavar="NAME",
        help="its validation_ood serves where the recipe names no OOD validation set",
    )
    parser.add_argument("--name", help="name of the sweep (default: made of the recipe's)")
    parser.add_argument("--trials", type=positive, metavar="N", help="instead of the search space's number")
    parser.add_argument("--concurrent", type=positive, metavar="N", help="trials at a time")
    parser.add_argument("--sampler", choices=["tpe", "gp", "nsga2", "random"])
    parser.add_argument("--scheduler", choices=["asha", "hyperband", "pbt", "none"])
    parser.add_argument(
        "--output", metavar="DIR", help="folder of the runs, or its URI (default: the recipe's, runs)"
    )
    add_json(parser)


def run(options: Options) -> int:
    """`rtk sweep`."""
    from rtk.config.errors import ConfigError
    from rtk.runs.working_copy import place_of
    from rtk.tune.summary import summarise

    if options.resume:
        done = _resume(options)
    elif not options.space or not options.recipe:
        raise ConfigError("sweep: wanted a search space and a recipe, or --resume NAME")
    elif options.check:
        return _check(options)
    else:
        done = _launch(options)
    summary = summarise(done)
    if options.json:
        print_json({"sweep": done.name, "path": str(done.path), **summary.plain()})
    else:
        print("\n".join([f"finished: {place_of(done.path)}", *_ending(done, summary)]))
    return 0


def _resume(options: Options) -> Sweep:
    from rtk.config.errors import ConfigError
    from rtk.report.sweep_page import write_sweep_page
    from rtk.runs.sweep import Sweep
    from rtk.tune.sweep import resume_sweep

    # With --resume the first positionals are overrides, no search space and no recipe.
    overrides = [text for text in (options.space, options.recipe, *options.overrides) if text]
    if any((options.sampler, options.scheduler, options.name, options.check, options.suite)):
        raise ConfigError("--resume: only --trials, --concurrent and the places of images may change")
    sweep = Sweep.open(options.resume, options.output or "runs")
    return resume_sweep(sweep, _changes(options), write_sweep_page, overrides)


def _launch(options: Options) -> Sweep:
    from rtk.report.sweep_page import write_sweep_page
    from rtk.tune.sweep import launch_sweep

    space, config, given = _searched(options)
    return launch_sweep(space, config, options.name, write_sweep_page, given)


def _check(options: Options) -> int:
    from rtk.tune.outline import outline_sweep

    space, config, _ = _searched(options)
    outline = outline_sweep(space, config)
    if options.json:
        print_json(outline)
    else:
        print("\n".join([f"valid: {options.space} on {options.recipe}", *_outlined(outline)]))
    return 0


def _searched(options: Options) -> tuple[SearchSpace, RunConfig, list[str]]:
    """Search space, the config that its trials start from, and that as it was typed."""
    from rtk.config import search_space as spaces
    from rtk.config.overrides import override_text

    changes = _changes(options)
    changes |= {f"{k}.name": v for k in ("sampler", "scheduler") if (v := getattr(options, k))}
    space = spaces.load_space(options.space, changes)
    overrides = [*options.overrides]
    overrides += [override_text("output", options.output)] if options.output else []
    config = spaces.base_config(space, options.recipe, overrides)
    if options.suite and config.data.validation_ood is None:
        overrides.append(override_text("data.validation_ood", _validation_ood(options.suite)))
        config = spaces.base_config(space, options.recipe, overrides)
    return space, config, [options.recipe, *overrides]


def _validation_ood(name: str) -> str:
    from rtk.config.errors import ConfigError
    from rtk.evaluate.suites import load_suite

    path = load_suite(name).validation_ood
    if path is None:
        raise ConfigError(f"--suite {name}: names no validation_ood")
    return path


def _changes(options: Options) -> dict[str, Any]:
    return {key: getattr(options, key) for key in ("trials", "concurrent") if getattr(options, key)}


def _outlined(outline: Mapping[str, Any]) -> list[str]:
    """What a sweep would do, in lines."""
    from rtk.runtime.console import counted

    wanted = ", ".join(f"{name} ({direction})" for name, direction in outline["objectives"].items())
    trials, how = counted(outline["trials"], "trial"), f"{outline['sampler']}, {outline['scheduler']}"
    held, length = outline["resources"], counted(outline["epochs"], "epoch")
    gpu = "a GPU where there are any" if held["gpu"] is None else counted(held["gpu"], "GPU")
    return [
        f"objectives: {wanted}",
        f"{trials} of at most {length}: {how}",
        f"seeds of a trial: {', '.join(map(str, outline['seeds']))}",
        f"searched: {', '.join(outline['keys'])}",
        f"a trial: {counted(outline['workers'], 'worker')}, each with {held['cpu']:g} CPU and {gpu}",
        *(
            f"data.{key}: {counted(one['images'], 'image')}, {one['path'] or 'held out of data.train'}"
            for key, one in outline["images"].items()
        ),
    ]


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
        lines.append(f"with seeds that the sweep has not used: {summary.seeds_command}")
    return [*lines, f"report: {sweep.path / 'evaluation' / 'report.html'}"]


def _trial(summary: SweepSummary, trial: Entry) -> str:
    from rtk.report.comparison_table import cell, heading

    state, number = trial.attributes["state"], trial.attributes["number"]
    reached = [f"{heading(m)} {cell(m, trial.values(m))}" for m in summary.objectives if m in trial.metrics]
    early = {"complete": "", "pruned": " (stopped early)"}.get(state, f" ({state})")
    return ", ".join([f"trial {number}{early}", *reached])
