"""Ways of training side by side on CIFAR-100 in the small, ranked by one `rtk leaderboard` command.

Trains every method with every seed, equal numbers of epochs for all, joins three seeds of cross-entropy to an
ensemble, and prints the command that measures and ranks them all. What is finished is not trained again, so
that it may be called until it is through, and two of it at a time with other `--rows` and `--threads 1`:
convolutions of two processes that share their cores wait for each other. `RTK_DATA` is the folder of
`ladder.py`.

    python benchmarks/methods.py --images 10000 --width 16 --epochs 8 --batch-size 64 --output /tmp/methods
    python benchmarks/methods.py --images 500 --width 4 --epochs 1 --seeds 1 --rows CE OE --output /tmp/try
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from ladder import PLUS, parse, small_config, trained

from rtk.evaluate.ensemble import chosen_members, open_ensemble
from rtk.runs.folder import RunFolder

CE = "resnet18_cifar100_ce"
# None of the OOD sets is among the outliers: pictures of fractals and feature visualisations.
OUTLIERS = "data.outliers=${RTK_DATA}/mixing/all.parquet"
RAT = ["objective.rat.weight=1", "objective.rat.eps=0.002"]
METHODS: dict[str, tuple[str, list[str]]] = {
    "CE": (CE, []),
    "LogitNorm": ("resnet18_cifar100_logitnorm", []),
    "AbeT": ("resnet18_cifar100_abet", []),
    # At the rho of a short run SAM's own step adds a tenth of the gradient: seven tenths stop all learning.
    "LookSAM": ("resnet18_cifar100_looksam", ["sharpness.alpha=0.1"]),
    "MSAM": ("resnet18_cifar100_msam", ["sharpness.rho=1"]),
    "ESAM": ("resnet18_cifar100_esam", []),
    "OE": ("resnet18_cifar100_oe", [OUTLIERS]),
    "MixOE": ("resnet18_cifar100_mixoe", [OUTLIERS]),
    "OpenMix": ("resnet18_cifar100_openmix", [OUTLIERS]),
    "RegMixup": ("resnet18_cifar100_regmixup", []),
    "ASCOOD": ("resnet18_cifar100_ascood", []),
    "PALM": ("resnet18_cifar100_palm", []),
    "RAT": (CE, RAT),
    "SURE": ("resnet18_cifar100_sure", []),
    "SURE+": (PLUS, []),
    "RAT and SURE+": (PLUS, RAT),
}
SCORES = "recommended mds_pp"
MEMBERS = 3


def ensemble(runs: Sequence[RunFolder]) -> str:
    """The run of the ensemble of some runs, which is made where it is not there yet."""
    return open_ensemble(chosen_members(runs, "last", False), "softmax", "ensemble").name


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, print the command that ranks it."""
    options = parse(__doc__, METHODS, 8, "methods", arguments)
    wanted = [(row, seed) for seed in range(options.seeds) for row in options.rows]
    if "CE" in options.rows:
        wanted += [("CE", seed) for seed in range(options.seeds, MEMBERS)]
    runs: dict[str, list[RunFolder]] = {}
    for row, seed in wanted:
        started, (recipe, changes) = time.monotonic(), METHODS[row]
        runs.setdefault(row, []).append(trained(row, small_config(recipe, changes, seed, options)))
        print(f"{row}, seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
    words = [found[0].name.rpartition("-seed")[0] for found in runs.values()]
    words += [ensemble(runs["CE"])] if "CE" in runs else []
    suite = f"--suite cifar100_small --scores {SCORES}"
    print(f"\nrtk leaderboard {' '.join(words)} {suite} --output {options.output}")


if __name__ == "__main__":
    main()
