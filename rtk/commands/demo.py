"""`rtk demo`: the whole story, from pictures that ship with scikit-learn."""

from __future__ import annotations

from pathlib import Path

from rtk.commands.output import print_json, print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive


def add(commands: Parsers) -> None:
    """The parser of `rtk demo`."""
    parser = add_command(
        commands,
        "demo",
        run,
        "train and compare a baseline and SURE+ on pictures that ship with scikit-learn",
        """rtk demo
        rtk demo --seeds 5
        rtk demo --json --out /tmp/demo""",
    )
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="repeat with seeds 0..N-1")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder for the runs (default: runs)")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk demo`."""
    from rtk.demo import run_demo
    from rtk.evaluate.tables import metric_rows

    result = run_demo(options.out, options.seeds)
    if options.json:
        print_json(result)
        return 0
    columns = {"baseline": result["baseline"], "SURE+": result["sure_plus"]}
    print_table("baseline and SURE+ on handwritten digits", metric_rows(columns))
    print(f"report: {result['report']}")
    print(f"MLflow: mlflow ui --backend-store-uri sqlite:///{Path(options.out).absolute() / 'mlflow.db'}")
    return 0
