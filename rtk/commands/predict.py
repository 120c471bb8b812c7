"""`rtk predict`: use a packaged run on images."""

from __future__ import annotations

import json
from typing import Any

from rtk.commands.output import print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_plugin


def add(commands: Parsers) -> None:
    """The parser of `rtk predict`."""
    parser = add_command(
        commands,
        "predict",
        run,
        "say of images what they show, and whether to trust it: accept, likely-wrong or unfamiliar",
        """rtk predict RUN photo.jpg more_photos/
        rtk predict models:/flowers/1 photos/ --jsonl > predictions.jsonl
        rtk predict RUN/export test.parquet""",
    )
    parser.add_argument("model", help="exported run, its export folder, or an MLflow URI")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image or Parquet file, or folder of them")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of runs and mlflow.db")
    add_plugin(parser, "what the model was exported with")
    parser.add_argument("--jsonl", action="store_true", help="print one line of JSON for each image")


def run(options: Options) -> int:
    """`rtk predict`; 1 where an image could not be read."""
    from rtk.deploy.predict import find_images, open_model, predict_files
    from rtk.runtime.console import progress_bar

    files = find_images(options.images)
    model = open_model(options.model, options.output, options.plugin)
    rows = []
    with progress_bar("predicting") as progress:
        for row in predict_files(model, files, progress):
            rows.append(row)
            if options.jsonl:
                print(json.dumps(row), flush=True)
    if not options.jsonl:
        print_table(model.origin["run"], _prediction_rows(rows))
    return int(any(row["error"] for row in rows))


def _prediction_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The image comes last: a long path would squeeze what matters."""
    numbers = ("confidence", "ood_score")
    table = [["decision", "label", *numbers, "image"]]
    for row in rows:
        figures = ["" if row[name] is None else f"{row[name]:.4g}" for name in numbers]
        table.append([row["decision"] or "error", row["label"] or row["error"], *figures, row["image"]])
    return table
