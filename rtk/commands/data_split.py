"""The split of `rtk data prepare`: its options, and what is printed of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rtk.commands.output import print_table, say
from rtk.commands.parsers import Options, natural

if TYPE_CHECKING:
    from rtk.data.prepare.prepare import PrepareReport
    from rtk.data.prepare.split import SplitOptions, SplitReport

MOST_CLASSES = 30  # of a table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a split."""
    split = parser.add_argument_group(
        "split", "write train, validation and test: every class in each, near-duplicates on one side"
    )
    split.add_argument("--split", metavar="A/B/C", help="shares of train, validation, test; 0 leaves one out")
    split.add_argument("--seed", type=natural, default=0, metavar="N", help="of the split (default: 0)")
    groups = split.add_mutually_exclusive_group()
    groups.add_argument("--group-by", metavar="COLUMN", help="keep rows of one value together (of Parquet)")
    groups.add_argument(
        "--group-pattern", metavar="REGEX", help="keep images together in whose paths this finds the same"
    )
    split.add_argument(
        "--ignore-duplicates", action="store_true", help="do not look for near-duplicates (faster)"
    )


def options(given: Options) -> SplitOptions | None:
    """How to split; None where that was not asked for.

    Raises:
        ConfigError: an option of the split stands without `--split`.
    """
    from rtk.config.errors import ConfigError
    from rtk.data.prepare.split import SplitOptions, parse_fractions

    if given.split is None:
        for name in ("group_by", "group_pattern", "ignore_duplicates", "seed"):
            if getattr(given, name):
                raise ConfigError(f"--{name.replace('_', '-')}: wanted --split with it")
        return None
    return SplitOptions(
        parse_fractions(given.split),
        given.seed,
        given.group_by,
        given.group_pattern,
        not given.ignore_duplicates,
    )


def show(done: PrepareReport, split: SplitReport) -> None:
    """Counts by class and part, and what was kept together."""
    counts = {
        Path(file.file).parts[0].removesuffix(".parquet"): [0] * len(done.classes) for file in done.files
    }
    for file in done.files:
        own = counts[Path(file.file).parts[0].removesuffix(".parquet")]
        own[:] = (total + more for total, more in zip(own, file.class_counts, strict=True))
    shown = [[name, *map(str, row)] for name, *row in zip(done.classes, *counts.values(), strict=True)]
    shares = "/".join(f"{share:.3g}" for share in split.reached)
    print_table(f"split {shares}, seed {split.options.seed}", [["class", *counts], *shown[:MOST_CLASSES]])
    if len(shown) > MOST_CLASSES:
        say(f"  and {len(shown) - MOST_CLASSES} more classes (manifest.json)")
    if split.groups is not None:
        say(f"groups kept whole: {split.groups}")
    if split.near_duplicate_groups is not None:
        print(
            f"groups of near-duplicates kept together: {split.near_duplicate_groups} "
            f"({split.near_duplicate_images} images, the largest of {split.largest_near_duplicates})"
        )
