"""`rtk data check`: what may be wrong with prepared images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands.output import print_json, say
from rtk.commands.parsers import Options, Parsers, add_command, add_json, add_labels_by, positive

if TYPE_CHECKING:
    from rtk.data.check.survey import Survey
    from rtk.data.sets.dataset import ImageDataset
    from rtk.evaluate.label_check import LabelCheck
    from rtk.runs.folder import RunFolder


def add(actions: Parsers) -> None:
    """The parser of `rtk data check`."""
    parser = add_command(
        actions,
        "check",
        run,
        "find near-duplicates, labels that look wrong, odd sizes, broken images and rare classes",
        """rtk data check data/photos/train.parquet data/photos/validation.parquet data/photos/test.parquet
        rtk data check data/photos/train.parquet data/photos/test.parquet --run runs/NAME --out check.html""",
    )
    parser.add_argument(
        "sets", nargs="+", metavar="SET", help="data sets, prepared or raw, the training images first"
    )
    parser.add_argument("--run", metavar="RUN", help="trained run whose predictions tell doubtful labels")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="default: best")
    parser.add_argument("--output", default="runs", metavar="DIR", help="where a run's name is looked for")
    parser.add_argument(
        "--out",
        default="data_check.html",
        metavar="FILE",
        help="page; a .json beside it (default: %(default)s)",
    )
    parser.add_argument(
        "--most", type=positive, default=60, metavar="N", help="pictures of a section (default: %(default)s)"
    )
    add_labels_by(parser)
    add_json(parser)


def run(options: Options) -> int:
    """`rtk data check`."""
    from rtk.config.errors import ConfigError
    from rtk.data.check.findings import findings
    from rtk.data.check.survey import survey
    from rtk.report.data_page import WORDS, Checked, as_json, write_data_page
    from rtk.runs.atomic import write_json
    from rtk.runs.folder import RunFolder
    from rtk.runtime.console import progress_bar

    page = Path(options.out)
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out: got {options.out!r}, wanted a name that ends in .html")
    trained = None if options.run is None else RunFolder.open(options.run, options.output)
    datasets = _open(options.sets)
    with progress_bar("looking at images") as progress:
        seen = survey(datasets, progress, options.labels_by == "number")
    labels = None if trained is None else _check_labels(trained, datasets, seen, options)
    checked = Checked(findings(seen), labels, None if trained is None else trained.name)
    content = as_json(checked)
    write_data_page(page, checked, options.most)
    write_json(page.with_suffix(".json"), content)
    if options.json:
        print_json({**content, "page": str(page)})
    else:
        for name, note in seen.notes.items():
            say(f"{name}: {note}")
        for key, count in content["summary"].items():
            say(f"{count:>8,} {WORDS[key]}")
        say(f"page: {page}\njson: {page.with_suffix('.json')}")
    return 0


def _open(paths: list[str]) -> dict[str, ImageDataset]:
    """The sets by short names: those of their files, or their paths where these are the same."""
    from rtk.config.errors import ConfigError
    from rtk.data.prepare.on_the_fly import prepared
    from rtk.data.sets.builtin import resolve_path
    from rtk.data.sets.dataset import open_dataset

    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise ConfigError(f"SET: got {twice[0]!r} twice")
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(Path(path)) for path in paths]
    places = [resolve_path(prepared(path, labelled=True)) for path in paths]
    return {name: open_dataset(place) for name, place in zip(names, places, strict=True)}


def _check_labels(
    run: RunFolder, datasets: dict[str, ImageDataset], seen: Survey, options: Options
) -> dict[str, LabelCheck]:
    from rtk.evaluate.label_check import check_labels_with
    from rtk.runtime.console import progress_bar

    broken = {
        name: tuple(int(seen.rows[number]) for number in seen.broken if seen.names[seen.sets[number]] == name)
        for name in seen.names
    }
    with progress_bar("predicting") as progress:
        return check_labels_with(
            run, datasets, broken, options.checkpoint, progress, options.labels_by == "number"
        )
