"""`rtk leaderboard`: methods x scores x sets of evaluated runs, the seeds of each taken together."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtk.commands.output import print_aligned, print_json, warn_of_unlike
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.report.leaderboard import Board
    from rtk.runs.folder import RunFolder

METRIC = "auroc"


def add(commands: Parsers) -> None:
    """The parser of `rtk leaderboard`."""
    parser = add_command(
        commands,
        "leaderboard",
        run,
        "measure runs on a suite and rank methods x scores x sets, seeds taken together",
        """rtk leaderboard BASELINE METHOD METHOD --suite cifar100 --scores recommended
        rtk leaderboard A B ENSEMBLE --suite openood_cifar100 --scores msp knn --out board.html board.tex
        rtk leaderboard A B --metric ds_aurc --out board.md""",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs, or NAME of the runs NAME-seed0, ...")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="config overrides of evaluate.*"
    )
    parser.add_argument("--suite", metavar="SUITE", help="OOD sets of a benchmark (default: each run's own)")
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out sets of the suite that are not there"
    )
    parser.add_argument(
        "--scores", nargs="+", metavar="SCORE", help="as of rtk evaluate (default: those of each recipe)"
    )
    _add_board(parser)
    parser.add_argument("--output", default="runs", metavar="DIR", help="where names of runs are looked for")
    add_json(parser)


def _add_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric",
        choices=["auroc", "fpr95", "aupr_in", "aupr_out", "ds_f1", "ds_aurc", "ood_f1", "ood_aurc"],
        default=METRIC,
        help=f"of the OOD sets (default: {METRIC})",
    )
    parser.add_argument(
        "--out", nargs="+", default=[], metavar="FILE", help="write FILE.md, .tex or .html (a sortable page)"
    )
    parser.add_argument(
        "--force", action="store_true", help="rank runs also where they were not measured on the same"
    )


def run(options: Options) -> int:
    """`rtk leaderboard`."""
    from rtk.report.leaderboard_files import MEANING, as_records, as_rows, checked_paths, write_board
    from rtk.runs.seeds import open_runs

    paths = checked_paths(options.out)
    runs = open_runs(options.runs, options.output)
    configs = {one.name: _configured(one, options) for one in runs}  # refused here, before any is measured
    scores = {one.name: _measured(one, configs[one.name], options.scores) for one in runs}
    board = _board(runs, configs, scores, options)
    warn_of_unlike(board.unlike, bool(board.best))
    title = f"leaderboard of {options.suite}" if options.suite else "leaderboard"
    written = [write_board(path, board, title) for path in paths]
    if options.json:
        rows, files = as_records(board), [str(path) for path in written]
        print_json({"rows": rows, "unlike": list(board.unlike), "written": files})
        return 0
    print_aligned(as_rows(board))
    print(f"\n* best of its column; {MEANING}")
    for path in written:
        print(f"written: {path}")
    return 0


def _configured(run: RunFolder, options: Options) -> RunConfig:
    from rtk.config.overrides import override_text
    from rtk.evaluate.sets import evaluation_config

    given = [override_text("evaluate.scores", options.scores)] if options.scores else []
    return evaluation_config(run, [*given, *options.overrides], options.suite, (), options.allow_missing)


def _measured(run: RunFolder, config: RunConfig, given: Sequence[str] | None) -> tuple[str, ...]:
    """Scores of a run that the board shows, measured where they have not been yet."""
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.evaluate.reuse import is_measured, keeping
    from rtk.report.run_page import write_report
    from rtk.report.run_tables import write_run_tables
    from rtk.scores.compute import expand_scores
    from rtk.scores.selection import wanted_scores
    from rtk.tracking.sending import send_evaluation

    if not is_measured(run, config, wanted_scores(config.evaluate, config.model.name)):
        evaluate_run(run, keeping(run, config))
        write_run_tables(run)
        write_report([run])
        send_evaluation(run)
    return expand_scores(given or config.evaluate.scores, config.model.name)


def _board(
    runs: Sequence[RunFolder],
    configs: dict[str, RunConfig],
    scores: dict[str, tuple[str, ...]],
    options: Options,
) -> Board:
    from dataclasses import replace

    from rtk.report.leaderboard import make_board, unlike_boards
    from rtk.report.published import published_rows
    from rtk.runs.results import group_by_seed, read_entry

    groups = group_by_seed([read_entry(one) for one in runs])
    differing = unlike_boards(runs, options.metric)
    board = make_board(groups, scores, options.metric, differing, options.force or not differing)
    models = [config.model for config in configs.values()]
    shown = {name for names in scores.values() for name in names}
    return replace(board, published=published_rows(options.suite, models, shown, board.columns))
