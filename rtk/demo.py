"""`rtk demo`: baseline and SURE+ on handwritten digits, trained, evaluated and set side by side."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from rtk.config.load import load_config
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.report import write_report
from rtk.run_folder import RunFolder
from rtk.tracking import send_evaluation
from rtk.train.launch import launch_training

RECIPES = {"baseline": "digits_ce", "sure_plus": "digits_demo"}


def run_demo(output: str = "runs", seeds: int = 1) -> dict[str, Any]:
    """Train and evaluate both recipes with seeds 0..seeds-1.

    Returns:
        `baseline` and `sure_plus`, each a mapping from metric to its value (with several seeds, to the
        list of values), and `report`, the path of the page about the first seed's runs.
    """
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
    outcome = launch_training(load_config(recipe, [f"output={output}", f"seed={seed}"]))
    if outcome.status != "finished":
        raise KeyboardInterrupt(outcome.signal or signal.SIGINT)
    _say(f"{outcome.run.name}: evaluating")
    summary: dict[str, float] = evaluate_run(outcome.run)["summary"]
    return outcome.run, summary


def _collect(rows: list[dict[str, float]]) -> dict[str, Any]:
    if len(rows) == 1:
        return dict(rows[0])
    # A test set without a mistake has no AUROC of errors: only what every seed has can be set side by side.
    return {key: [row[key] for row in rows] for key in rows[0] if all(key in row for row in rows)}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
