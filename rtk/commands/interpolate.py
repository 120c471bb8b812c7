"""`rtk interpolate`: the best weights between a fine-tuned run and the weights that it began with."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from rtk.commands.output import print_aligned, print_json
from rtk.commands.parsers import Options, Parsers, add_command, add_json

if TYPE_CHECKING:
    from rtk.runs.interpolation import Interpolation


def add(commands: Parsers) -> None:
    """The parser of `rtk interpolate`."""
    parser = add_command(
        commands,
        "interpolate",
        run,
        "make a run of weights between a fine-tuned run and its pretrained start (WiSE-FT)",
        """rtk interpolate RUN
        rtk interpolate RUN --alphas 0 0.25 0.5 0.75 1
        rtk interpolate RUN --alphas 0.5 --name half      no choice: half of each""",
    )
    parser.add_argument("run", help="run that was trained with model.weights: its folder, its name, or last")
    parser.add_argument(
        "--alphas",
        nargs="+",
        type=_share,
        metavar="A",
        help="shares of the fine-tuned weights to choose from, by DS-AURC of the validation sets, or by AURC"
        " without OOD ones (default: 0, 0.1, ..., 1)",
    )
    parser.add_argument("--name", metavar="NAME", help="of the new run (default: RUN-interpolated-A)")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    add_json(parser)


def _share(text: str) -> float:
    """An option's number from 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted a number from 0 to 1")
    return found


def run(options: Options) -> int:
    """`rtk interpolate`."""
    from dataclasses import asdict

    from rtk.runs.folder import RunFolder
    from rtk.train.interpolation import ALPHAS, interpolate_run

    alphas = sorted(set(options.alphas or ALPHAS))
    tuned = RunFolder.open(options.run, options.output)
    made, record = interpolate_run(tuned, alphas, options.checkpoint, options.name)
    if options.json:
        print_json({"run": made.name, "path": str(made.path), **asdict(record)})
        return 0
    if record.criterion is not None:
        print_aligned(_rows(record))
    print(f"{record.words}\nrun: {made.place}\nnext: rtk evaluate {made.place}")
    return 0


def _rows(record: Interpolation) -> list[list[str]]:
    """A row for each share that was tried, headings first."""
    from rtk.report.comparison_table import cell, heading

    keys = [key for key in record.tried[0] if key != "alpha"]
    rows = [["share", *map(heading, keys)]]
    for row in record.tried:
        chosen = " *" if row["alpha"] == record.alpha else ""
        rows.append([f"{row['alpha']:g}{chosen}", *(cell(key, [row[key]]) for key in keys)])
    return rows
