"""`rtk compare`: tables over many runs, a sweep's trials or an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands.output import print_json, say, warn_of_unlike
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.report.differences import Difference


def add(commands: Parsers) -> None:
    """The parser of `rtk compare`."""
    parser = add_command(
        commands,
        "compare",
        run,
        "tables over many runs, a sweep's trials or an experiment, seeds taken together",
        """rtk compare BASELINE_RUN RUN RUN
        rtk compare --sweep NAME --html sweep.html
        rtk compare --experiment rtk --where "params.model.width = 8 and metrics.accuracy > 0.9"
        rtk compare runs/digits_* --csv runs.csv""",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs (or last), those of the baseline first")
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
    parser.add_argument(
        "--csv", metavar="FILE", help="write all metrics and differing params, a row for each run"
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="where names are looked for")
    parser.add_argument(
        "--force", action="store_true", help="rank runs also where they were not measured on the same"
    )
    add_json(parser)


def run(options: Options) -> int:
    """`rtk compare`."""
    from rtk.report.comparison import compare as compare_runs
    from rtk.report.comparison_table import as_csv, as_records, as_text
    from rtk.report.differences import difference_records
    from rtk.runs.origin import said_of

    keys = ("runs", "sweep", "experiment", "where", "metrics", "sort", "output", "force")
    found = compare_runs(**{key: getattr(options, key) for key in keys})
    warn_of_unlike(found.unlike, found.ranked)
    written = []
    if options.html:
        from rtk.report.comparison_page import write_comparison

        written.append(write_comparison(found, Path(options.html)))
    if options.csv:
        written.append(Path(options.csv))
        written[-1].write_text(as_csv(found.groups), encoding="utf-8")
    if options.json:
        print_json(
            {
                "runs": as_records(found.groups),
                "differences": difference_records(found.differences),
                "unlike": found.unlike,
                "written": [str(path) for path in written],
            }
        )
        return 0
    print(found.title, as_text(found.groups, found.metrics), sep="\n\n")
    print_differences(found.differences)
    for entry in (entry for group in found.groups for entry in group.entries):
        if said := said_of(entry.run.path):
            say(f"{entry.name}: {said}")
    for path in written:
        say(f"written: {path}")
    return 0


def print_differences(found: Sequence[Difference]) -> None:
    """Print a line for each metric of each group beside the baseline's, with its 95 % interval."""
    from rtk.report.comparison_table import heading, shown_difference

    for one in found:
        sure = "significant" if one.is_significant else "not significant"
        shown = [shown_difference(one.metric, number) for number in (one.difference, one.low, one.high)]
        interval = f"{shown[0]} [{shown[1]}, {shown[2]}]"
        say(f"{one.group} - {one.baseline}: {heading(one.metric)} {interval}, {sure} ({one.over})")
