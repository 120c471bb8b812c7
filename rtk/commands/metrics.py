"""`rtk metrics`: joint metrics of a table of scores that may be larger than one machine's memory."""

from __future__ import annotations

from dataclasses import asdict

from rtk.commands.output import print_json, print_table
from rtk.commands.parsers import Options, Parsers, add_command, add_json


def add(commands: Parsers) -> None:
    """The parser of `rtk metrics`."""
    parser = add_command(
        commands,
        "metrics",
        run,
        "measure a table of scores, of any model and size: DS-F1, DS-AURC, OOD-F1, OOD-AURC on the grid",
        """rtk metrics runs/NAME/evaluation/scores.parquet
        rtk metrics s3://bucket/scores/ --confidence msp --ood-score energy --ood cats dogs""",
    )
    parser.add_argument(
        "scores", help="Parquet file or folder, columns set, group (id, near or far), is_correct, scores"
    )
    parser.add_argument("--confidence", default="msp", metavar="COLUMN", help="in [0, 1] (default: msp)")
    parser.add_argument("--ood-score", default="knn", metavar="COLUMN", help="default: knn")
    parser.add_argument("--ood", nargs="+", metavar="SET", help="sets to measure against (default: all)")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk metrics`."""
    from rtk.config.errors import ConfigError
    from rtk.data.sets.builtin import is_missing
    from rtk.data.sets.storage import locate
    from rtk.evaluate.reduce import check_score_files, ood_sets, reduce_joint_metrics
    from rtk.report.tables import format_value, how_shown
    from rtk.runtime.ray_session import start_ray

    if is_missing(options.scores):
        raise ConfigError(f"scores: got {options.scores!r}, wanted a Parquet file or a folder of them")
    check_score_files(*locate(options.scores))
    scores = start_ray().data.read_parquet(options.scores)
    columns = (options.confidence, options.ood_score)
    found = {
        name: asdict(reduce_joint_metrics(scores, name, *columns)) for name in options.ood or ood_sets(scores)
    }
    if options.json:
        print_json(found)
        return 0
    keys = list(next(iter(found.values()), {}))
    rows = [[name, *(format_value(key, own[key]) for key in keys)] for name, own in found.items()]
    heading = ["OOD set", *(how_shown(key).heading for key in keys)]
    print_table(f"{options.scores}: confidence {columns[0]}, OOD score {columns[1]}", [heading, *rows])
    return 0
