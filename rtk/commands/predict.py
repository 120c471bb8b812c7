"""`rtk predict`: use a packaged run on images."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
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
        rtk predict RUN photos/ --html photos.html --csv photos.csv
        rtk predict models:/flowers/1 photos/ --jsonl > predictions.jsonl
        rtk predict RUN/export test.parquet""",
    )
    parser.add_argument("model", help="evaluated run, what rtk export wrote, or an MLflow URI")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image or Parquet file, or folder of them")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of runs and mlflow.db")
    add_plugin(parser, "what the model was exported with")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table, a row for each image")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the images, by decision")
    parser.add_argument("--jsonl", action="store_true", help="print one line of JSON for each image")


def run(options: Options) -> int:
    """`rtk predict`; 1 where an image could not be read."""
    from rtk.data.image_files import as_text
    from rtk.deploy.predict import encoded_images, find_images, open_model, predict_files
    from rtk.report.prediction_sheet import write_csv, write_sheet
    from rtk.runtime.console import printable, progress_bar

    _check_folders(options)
    files = find_images(options.images)
    model = open_model(options.model, options.output, options.plugin)
    rows = []
    with progress_bar("predicting") as progress:
        for row in predict_files(model, files, progress):
            rows.append(row)
            if options.jsonl:
                print(json.dumps({**row, "image": as_text(row["image"])}), flush=True)
    if not options.jsonl:
        print_table(model.origin["run"], _prediction_rows(rows))
    counts, promise = _count(rows), model.rule.promise()
    for line in (promise, counts):  # the counts last, where they are looked for
        print(printable(line), file=sys.stderr if options.jsonl else sys.stdout)
    if options.csv is not None:
        write_csv(options.csv, rows)
    if options.html is not None:
        images = (data for _, data in encoded_images(files))
        write_sheet(options.html, model.origin["run"], f"{counts}; {promise}", rows, images)
    return int(any(row["error"] for row in rows))


def _check_folders(options: Options) -> None:
    """Refuse a file that could not be written, before anything is predicted."""
    from rtk.config.errors import ConfigError

    for name, path in (("--csv", options.csv), ("--html", options.html)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise ConfigError(f"{name}: got {str(path)!r}, wanted a file in a folder that exists")


def _prediction_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The image comes last: a long path would squeeze what matters. Columns without a word are left out."""
    numbers = ("confidence", "ood_score")
    words = [name for name in ("candidates", "error") if any(row.get(name) for row in rows)]
    table = [["decision", "label", *numbers, *words, "image"]]
    for row in rows:
        figures = ["" if row[name] is None else f"{row[name]:.4g}" for name in numbers]
        said = [_in_words(row.get(name)) for name in words]
        table.append([row["decision"] or "–", row["label"] or "", *figures, *said, row["image"]])
    return table


def _in_words(said: str | list[str] | None) -> str:
    return ", ".join(said) if isinstance(said, list) else said or ""


def _count(rows: list[dict[str, Any]]) -> str:
    """How many images there are, and how many got each decision."""
    from rtk.scores.decision import DECISIONS

    found = Counter(row["decision"] for row in rows)
    parts = [f"{found[name]:,} {name}" for name in DECISIONS]
    parts += [f"{found[None]:,} cannot be read"] * bool(found[None])
    return f"{len(rows):,} {'image' if len(rows) == 1 else 'images'}: {', '.join(parts)}"
