"""`rtk demo`: the whole story, from pictures that ship with scikit-learn or from a folder of one's own."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtk.commands import demo_photos
from rtk.commands.output import print_json, print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_json, positive

if TYPE_CHECKING:
    from rtk.runs.folder import RunFolder


def add(commands: Parsers) -> None:
    """The parser of `rtk demo`."""
    parser = add_command(
        commands,
        "demo",
        run,
        "train and compare a baseline and SURE+ on pictures that ship with scikit-learn, or on your own",
        """rtk demo
        rtk demo --seeds 5
        rtk demo --json --output /tmp/demo
        rtk demo --photos flowers/ --hold-out tulip --weights efficientnet_lite0.safetensors""",
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help="repeat with seeds 0..N-1 (default: 1; with --photos 2)",
    )
    parser.add_argument(
        "--output", "--out", default="runs", metavar="DIR", help="folder of the runs (default: runs)"
    )
    demo_photos.add_options(parser)
    add_json(parser)


def run(options: Options) -> int:
    """`rtk demo`."""
    from rtk.report.tables import metric_rows

    demo_photos.check_options(options)
    if options.photos:
        return demo_photos.run(options)
    result = run_demo(options.output, options.seeds or 1)
    if options.json:
        print_json(result)
        return 0
    columns = {"baseline": result["baseline"], "SURE+": result["sure_plus"]}
    print_table("baseline and SURE+ on handwritten digits", metric_rows(columns))
    print(f"report: {result['report']}")
    print(f"MLflow: mlflow ui --backend-store-uri sqlite:///{Path(options.output).absolute() / 'mlflow.db'}")
    return 0


RECIPES = {"baseline": "digits_ce", "sure_plus": "digits_demo"}


def run_demo(output: str = "runs", seeds: int = 1) -> dict[str, Any]:
    """Train and evaluate both recipes with seeds 0..seeds-1.

    Returns:
        `baseline` and `sure_plus`, each a mapping from metric to its value (with several seeds, to the
        list of values), and `report`, the path of the page about the first seed's runs.
    """
    from rtk.report.run_page import write_report
    from rtk.tracking.sending import send_evaluation

    values: dict[str, list[dict[str, float]]] = {name: [] for name in RECIPES}
    first_runs: list[RunFolder] = []
    for seed in range(seeds):
        for name, recipe in RECIPES.items():
            _say(f"{name} (seed {seed}): training {recipe}")
            run, summary = _train_and_evaluate(recipe, output, seed)
            values[name].append(summary)
            if seed == 0:
                first_runs.append(run)
    report = write_report(first_runs, Path(output) / "demo_report.html")
    for run in first_runs:
        send_evaluation(run)
    return {name: _collect(rows) for name, rows in values.items()} | {"report": str(report.absolute())}


def _train_and_evaluate(recipe: str, output: str, seed: int) -> tuple[RunFolder, dict[str, float]]:
    from rtk.config.load import load_config
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.report.run_tables import write_run_tables
    from rtk.train.launch import launch_training

    outcome = launch_training(load_config(recipe, [f"output={json.dumps(output)}", f"seed={seed}"]))
    if outcome.status != "finished":
        raise KeyboardInterrupt(outcome.signal or signal.SIGINT)
    _say(f"{outcome.run.name}: evaluating")
    summary: dict[str, float] = evaluate_run(outcome.run)["summary"]
    write_run_tables(outcome.run)
    return outcome.run, summary


def _collect(rows: list[dict[str, float]]) -> dict[str, Any]:
    if len(rows) == 1:
        return dict(rows[0])
    # A test set without a mistake has no AUROC of errors: only what every seed has can be set side by side.
    return {key: [row[key] for row in rows] for key in rows[0] if all(key in row for row in rows)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
