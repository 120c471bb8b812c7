"""`rtk report`: the page of one evaluated run, or of several side by side."""

from __future__ import annotations

from pathlib import Path

from rtk.commands.output import print_json, warn_of_unlike
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk report`."""
    parser = add_command(
        commands,
        "report",
        run,
        "write the page of an evaluated run, or of a few side by side: every figure and plot",
        """rtk report RUN
        rtk report BASELINE_RUN RUN --out comparison.html
        rtk report BASELINE_RUN RUN --table results.tex results.csv
        rtk report MSR_RUN RAT_RUN --radii --out radii.html""",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="evaluated runs (or last), the baseline first")
    parser.add_argument("--out", metavar="FILE", help="default: evaluation/report.html of the last run")
    parser.add_argument(
        "--table",
        nargs="+",
        default=[],
        metavar="FILE",
        help="also a table of all runs: FILE.csv, .json, .md, .tex or .html",
    )
    parser.add_argument("--output", default="runs", metavar="DIR", help="where run names are looked for")
    parser.add_argument(
        "--force", action="store_true", help="mark the best also of runs that were not measured on the same"
    )
    parser.add_argument(
        "--radii",
        action="store_true",
        help="with RAT's figures: radii of right and wrong predictions, AURC over the temperature, cost of "
        "every score",
    )
    add_json(parser)


def run(options: Options) -> int:
    """`rtk report`."""
    from rtk.report.run_page import unlike_headlines, write_report
    from rtk.report.table_files import write_table
    from rtk.report.tables import pooled_rows
    from rtk.runs.results import read_result
    from rtk.runs.seeds import open_runs

    runs = open_runs(options.runs, options.output)
    tables = [Path(table) for table in options.table]
    rows = pooled_rows({run.name: read_result(run) for run in runs})
    for table in tables:
        write_table(table, rows)
    path = write_report(runs, Path(options.out) if options.out else None, options.force, options.radii)
    differing = unlike_headlines(runs)
    warn_of_unlike(differing, options.force)
    if options.json:
        written = {"report": str(path), "tables": [str(table) for table in tables]}
        print_json(written | ({"unlike": differing} if differing else {}))
    else:
        print("\n".join([*(f"table: {table}" for table in tables), f"report: {path}"]))
    return 0
