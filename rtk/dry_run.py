"""`rtk train --dry-run`: one step of everything, so that a long job does not fail at its end."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rtk.config.load import build_config
from rtk.config.schema import RunConfig
from rtk.evaluate.evaluate import evaluate_run
from rtk.evaluate.report import write_report
from rtk.train.launch import launch_training

EVALUATED_ROWS = 256


def dry_run(config: RunConfig) -> dict[str, str]:
    """Decode, train one step, validate, save, log, evaluate on a few images, report; keep nothing.

    Returns:
        What was done, by name, with its outcome.

    Raises:
        ValueError, TrainingError: as the real run would.
    """
    # Beside the real runs, for that is where the workers of a cluster can write too.
    parent = Path(config.output).absolute().parent
    with tempfile.TemporaryDirectory(
        prefix=".rtk-dry-run-", dir=parent if parent.is_dir() else None
    ) as folder:
        tree = config.model_dump(mode="json")
        tree["output"] = folder
        tree["tracking"] |= {"uri": None, "checkpoints": False}
        tree["train"]["duration"] = "1steps"
        outcome = launch_training(build_config(tree))
        done = {"training step, validation, checkpoint": outcome.status}
        if config.data.test is None:
            return done | {"evaluation": "skipped, the recipe has no data.test"}
        result = evaluate_run(outcome.run, rows=EVALUATED_ROWS)
        write_report([outcome.run])
        return done | {"evaluation": f"{len(result['sets'])} OOD sets", "report": "written"}
