"""The ladder of SURE+'s table in the small, on CIFAR-100: does each of its parts help, in the paper's order?

Trains every row with every seed, evaluates it, and prints a Markdown table with what holds of that order.
What is finished is not run again and what was interrupted goes on: the same command may be called until it is
through. `RTK_DATA` is a folder with cifar100/{train_10k,test}, cifar10/test, tiny_imagenet/val, dtd10/all_32,
mnist/test and mixing/all (all .parquet).

    python benchmarks/ladder.py --images 10000 --width 16 --epochs 30 --seeds 2 --output /tmp/ladder
    python benchmarks/ladder.py --images 500 --width 4 --epochs 1 --seeds 1 --rows CE SURE+ --output /tmp/try

Shares of a run are kept: SWA begins after 60 % of it and anneals over 5 %, and the EMA remembers the share
that 1 / (1 - 0.9998) steps are of the published 200 epochs. The rho of SAM and F-SAM is an option, for a
short run of a narrow network does not bear the published 0.2.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from rtk.config.load import load_config
from rtk.config.schema import RunConfig
from rtk.evaluate.evaluate import evaluate_run
from rtk.runs.folder import RunFolder
from rtk.runs.results import read_result
from rtk.train.seeds import train_to_end

PUBLISHED_STEPS = 200 * (45_000 // 128)
PLUS = "resnet18_cifar100_sure_plus"
ROWS: dict[str, tuple[str, list[str]]] = {
    "CE": ("resnet18_cifar100_ce", []),
    "RegMixup": ("resnet18_cifar100_regmixup", []),
    "SURE": ("resnet18_cifar100_sure", []),
    "SURE+ less RegMixup": (PLUS, ["objective.regmixup.weight=0"]),
    "SURE+ less RegPixMix": (PLUS, ["objective.regpixmix.weight=0"]),
    "SURE+ less F-SAM": (PLUS, ["sharpness.variant=none"]),
    "SURE+ less EMA": (PLUS, ["averaging.kind=none"]),
    "SURE+ less ReBN": (PLUS, ["averaging.reestimate_batchnorm=false"]),
    "SURE+": (PLUS, []),
}
ORDER = ("CE", "RegMixup", "SURE", "SURE+")  # from the worst to the best, in the paper
METRICS = {  # heading: key, factor, whether more is better
    "accuracy %": ("accuracy", 100, True),
    "AURC x1000": ("aurc", 1000, False),
    "AUROC near %": ("auroc_near", 100, True),
    "AUROC far %": ("auroc_far", 100, True),
    "DS-AURC near x1000": ("ds_aurc_near", 1000, False),
    "DS-AURC far x1000": ("ds_aurc_far", 1000, False),
}
DATA = [
    "data.train=${RTK_DATA}/cifar100/train_10k.parquet",
    "data.test=${RTK_DATA}/cifar100/test.parquet",
    "data.validation_ood=null",
    "data.near_ood={cifar10: '${RTK_DATA}/cifar10/test.parquet', "
    "tiny_imagenet: '${RTK_DATA}/tiny_imagenet/val.parquet'}",
    "data.far_ood={mnist: '${RTK_DATA}/mnist/test.parquet', textures: '${RTK_DATA}/dtd10/all_32.parquet'}",
]


def row_config(row: str, seed: int, options: argparse.Namespace) -> RunConfig:
    """The config of a row of the ladder."""
    recipe, changes = ROWS[row]
    return small_config(recipe, [*changes, "evaluate.scores=[msp, knn]"], seed, options)


def small_config(recipe: str, changes: Sequence[str], seed: int, options: argparse.Namespace) -> RunConfig:
    """The config of a recipe and changes to it, its durations scaled to the length of the run."""
    steps = max(1, options.epochs * (int(0.9 * options.images) // options.batch_size))
    small = [
        *(f"output={options.output}", f"seed={seed}", f"data.train_rows={options.images}"),
        *(f"model.width={options.width}", f"train.workers={options.workers}"),
        *(f"train.duration={options.epochs}ep", f"train.batch_size={options.batch_size}"),
    ]
    small += [f"train.threads={options.threads}"] if options.threads else []
    config = load_config(recipe, [*DATA, *small, *changes])
    return load_config(recipe, [*DATA, *small, *scaled(config, steps, options), *changes])


def scaled(config: RunConfig, steps: int, options: argparse.Namespace) -> list[str]:
    """Overrides that fit a recipe of 200 epochs to a run of so many steps."""
    share, found = steps / PUBLISHED_STEPS, []
    if config.sharpness.variant != "none":
        found.append(f"sharpness.rho={options.rho}")
    if config.averaging.kind == "ema":
        decay = max(0.0, 1 - (1 - config.averaging.decay) / share)
        found += [f"averaging.decay={decay}", f"averaging.ramp={max(1.0, config.averaging.ramp * share)}"]
    if config.averaging.kind == "swa":
        found.append(f"averaging.start={int(0.6 * steps)}steps")
        found.append(f"averaging.every={max(1, steps // options.epochs)}steps")
        found.append(f"schedule.swa_anneal={int(0.05 * steps)}steps")
    return found


def trained(row: str, config: RunConfig) -> RunFolder:
    """A row's run, which is trained as far as it is not yet."""
    word = row.lower().replace("+", "_plus").replace("-", "").replace(" ", "_")
    run = RunFolder(Path(config.output).absolute() / f"{word}-seed{config.seed}")
    if run.path.exists() and run.stored_config() != config:
        raise SystemExit(f"{run.path}: was made with other options; wanted another --output")
    status, _ = train_to_end(run, config)
    if status != "finished":
        raise SystemExit(f"{run.name}: {status}; the same command goes on")
    return run


def measured(row: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Headline metrics of a row's run, which is trained and evaluated as far as it is not yet."""
    run = trained(row, row_config(row, seed, options))
    if not (run.evaluation / "metrics.json").exists():
        evaluate_run(run)
    summary: dict[str, float] = read_result(run)["summary"]
    return summary


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown table of the rows: mean and standard deviation over seeds."""
    lines = [f"| row | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 1) + "|"]
    for row, runs in found.items():
        cells = []
        for key, factor, _ in METRICS.values():
            values = factor * np.array([run[key] for run in runs])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def verdicts(found: dict[str, list[dict[str, float]]]) -> str:
    """Which steps of the paper's order hold, in the mean over seeds, for every metric."""
    steps = [pair for pair in pairwise(ORDER) if set(pair) <= found.keys()]
    steps += [(row, "SURE+") for row in found if row.startswith("SURE+ less") and "SURE+" in found]
    lines = []
    for heading, (key, factor, more) in METRICS.items():
        held, broken = [], []
        for worse, better in steps:
            means = [factor * np.mean([run[key] for run in found[row]]) for row in (worse, better)]
            gain = (means[1] - means[0]) * (1 if more else -1)
            (held if gain > 0 else broken).append(f"{better} over {worse} ({gain:+.1f})")
        lines.append(f"- {heading}: {len(held)} of {len(steps)} hold" + "".join(f"; not {x}" for x in broken))
    return "\n".join(lines)


def parse(
    doc: str | None, rows: Mapping[str, object], epochs: int, output: str, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """The command line: which rows, how much is trained, and where."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), metavar="ROW")
    for name, default in (
        ("images", 10_000),
        ("width", 16),
        ("epochs", epochs),
        ("seeds", 2),
        ("workers", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, help="of a worker")
    parser.add_argument("--rho", type=float, default=0.05)
    parser.add_argument("--output", default=output)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, print the table."""
    options = parse(__doc__, ROWS, 30, "ladder", arguments)
    found: dict[str, list[dict[str, float]]] = {row: [] for row in options.rows}
    for seed in range(options.seeds):  # a seed of every row before the next, so that a table is there early
        for row in options.rows:
            found[row].append(measured(row, seed, options))
            measures = {key: round(found[row][-1][key], 4) for key, *_ in METRICS.values()}
            print(f"{row}, seed {seed}: {measures}", flush=True)
        print(f"\n{table(found)}\n\n{verdicts(found)}\n", flush=True)


if __name__ == "__main__":
    main()
