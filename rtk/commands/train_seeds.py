"""`rtk train --seeds`: one run for each seed, and what they have come to together."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rtk.commands.output import print_aligned, print_json
from rtk.commands.parsers import Options, seeds

if TYPE_CHECKING:
    from rtk.config.schema import RunConfig
    from rtk.train.seeds import SeedRun


def add_seeds(parser: argparse.ArgumentParser) -> None:
    """The option `--seeds`."""
    parser.add_argument(
        "--seeds",
        type=seeds,
        metavar="SEEDS",
        help="train once with each seed, in runs NAME-seed0, ...: 0,3,7, or 0..4 (both ends included: five "
        "seeds); the same command again goes on with what is not finished",
    )


def check_seeds(options: Options) -> None:
    """Refuse what `--seeds` cannot be combined with.

    Raises:
        ConfigError: naming it.
    """
    from rtk.config.errors import ConfigError

    if options.resume:
        raise ConfigError(
            "--resume: cannot be combined with --seeds, whose command goes on where it was stopped"
        )
    own = next((text for text in options.overrides if text.startswith("seed=")), None)
    if own is not None:
        raise ConfigError(f"override {own!r}: cannot be combined with --seeds")


def run_seeds(options: Options, config: RunConfig) -> int:
    """Train with all seeds, say what came of it, and return the exit code."""
    from rtk.train.seeds import train_seeds

    name = options.name or config.name
    found = train_seeds(config, options.seeds, name)
    left = options.seeds[len(found) :]
    if options.json:
        print_json(_plain(name, found, left))
    else:
        print_aligned(_table(found))
        print("\n".join(_ending(name, config.output, found, left)))
    signal = found[-1].signal if found[-1].status == "interrupted" else None
    return 128 + signal if signal else int(any(one.status == "failed" for one in found))


def _plain(name: str, found: Sequence[SeedRun], left: Sequence[int]) -> dict[str, Any]:
    """For programs; `left` are the seeds that were not begun."""
    from rtk.runs.results import mean_and_std
    from rtk.runs.trained import read_trained

    runs: list[dict[str, Any]] = [
        {"run": one.run.name, "path": str(one.run.path), "seed": one.seed, "status": one.status}
        | ({"reason": one.reason} if one.reason else {})
        | asdict(read_trained(one.run))
        for one in found
    ]
    best = [run["best"] for run in runs if run["status"] == "finished" and run["best"] is not None]
    return {"group": name, "runs": runs, "left": list(left), **mean_and_std(best)}


def _table(found: Sequence[SeedRun]) -> list[list[str]]:
    """A row for each run: its best epoch and that epoch's metrics; the mean is over finished ones."""
    from rtk.report.comparison_table import VAL_METRICS
    from rtk.report.seed_table import SeedRow, seed_table
    from rtk.runs.trained import read_trained

    rows = []
    for one in found:
        trained = read_trained(one.run)
        epoch = "–" if trained.best_epoch is None else f"{trained.best_epoch:g}"
        rows.append(SeedRow([str(one.seed), one.status, epoch], trained.best or {}, one.status == "finished"))
    metrics = [key for key in VAL_METRICS if any(key in row.metrics for row in rows)]
    return seed_table(["seed", "state", "best epoch"], rows, metrics)


def _ending(name: str, output: str, found: Sequence[SeedRun], left: Sequence[int]) -> Iterator[str]:
    """What went wrong, and what to do next."""
    for one in found:
        if one.reason:
            yield f"seed {one.seed} failed: {one.reason}"
    if left:
        yield f"not begun: seeds {', '.join(map(str, left))}"
    if left or any(one.status != "finished" for one in found):
        yield "next: the same command goes on"
    else:
        place = [] if output == "runs" else [f"--output {output}"]
        yield " ".join(["next: rtk evaluate", name, *place])
