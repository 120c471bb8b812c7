"""Is a sweep worth it? Optuna against random search, and the best trial against the recipe, on the test.

Runs `search_spaces/small.yaml` on digits_demo twice at the same budget, then trains the recipe's own values
and the best of each search anew with several seeds and evaluates them on the test sets.

    python benchmarks/sweep.py --trials 24 --seeds 5 --output /tmp/sweep-benchmark
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from rtk.config.load import override_config
from rtk.config.schema import RunConfig
from rtk.config.search_space import base_config, load_space
from rtk.evaluate.evaluate import evaluate_run
from rtk.report.comparison import compare
from rtk.report.comparison_table import as_text, heading
from rtk.runs.sweep import Sweep
from rtk.train.launch import launch_training
from rtk.tune.results import best_trial, read_trials
from rtk.tune.sweep import launch_sweep

SPACE = Path(__file__).parents[1] / "search_spaces" / "small.yaml"
METRICS = ("ds_aurc_near", "ds_aurc_far", "accuracy", "aurc")


def search(sampler: str, trials: int, output: str) -> tuple[Sweep, dict[str, object]]:
    """Run one sweep; returns it and the best trial's values."""
    space = load_space(SPACE, {"trials": trials, "sampler.name": sampler})
    started = time.monotonic()
    sweep = launch_sweep(space, base_config(space, "digits_demo", [f"output={output}"]))
    seconds = time.monotonic() - started
    best = best_trial(sweep)
    assert best is not None, "every trial failed"
    metric = space.metrics[0]
    print(
        f"{sampler}: {trials} trials in {seconds:.0f} s, {60 * trials / seconds:.1f} a minute, "
        f"best {metric} {best.metrics[metric]:.4f} ({best.name}); "
        f"seconds a trial beside training: {overhead(sweep):.2f}"
    )
    return sweep, {key: best.params[key] for key in space.space}


def overhead(sweep: Sweep) -> float:
    """Median over trials of the seconds from folder to first step, the first of each process left out."""
    waits = []
    for trial in sorted(read_trials(sweep), key=lambda entry: entry.attributes["number"])[2:]:
        rows = trial.run.read_metrics()
        logged = [row["time"] for row in rows if row["key"] == "train/lr"]
        speeds = [row["value"] for row in rows if row["key"] == "train/images_per_second"]
        steps = next(row["step"] for row in rows if row["key"] == "train/lr")
        first_steps = steps * trial.params["train.batch_size"] / speeds[0]
        made = (trial.run.path / "config.yaml").stat().st_mtime
        waits.append(logged[0] - first_steps - made)
    return float(np.median(waits))


def retrain(config: RunConfig, name: str, values: dict[str, object], seeds: int, output: str) -> list[str]:
    """Train and evaluate with seeds that the search has not seen; returns the run folders."""
    runs = []
    for seed in range(1, seeds + 1):
        changed = override_config(config, {**values, "name": name, "seed": seed, "output": output})
        run = launch_training(changed).run
        evaluate_run(run)
        runs.append(str(run.path))
    return runs


def main() -> None:
    """Search, retrain, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", default="/tmp/sweep-benchmark")
    options = parser.parse_args()
    found = {name: search(name, options.trials, options.output) for name in ("tpe", "random")}
    config = base_config(load_space(SPACE), "digits_demo")
    values = {"recipe": {}, **{name: best for name, (_, best) in found.items()}}
    runs = [r for name, v in values.items() for r in retrain(config, name, v, options.seeds, options.output)]
    result = compare(runs, metrics=METRICS)
    print(as_text(result.groups, result.metrics))
    for one in result.differences:
        ends = f"{one.difference:+.4f} [{one.low:+.4f}, {one.high:+.4f}]"
        print(f"{one.group} - {one.baseline}: {heading(one.metric)} {ends} significant: {one.is_significant}")


if __name__ == "__main__":
    main()
