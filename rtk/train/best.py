"""The best checkpoint of a run: the last one of an epoch, where its validation metric is ahead."""

from __future__ import annotations

import math

from rtk.config.metric_names import larger_is_better
from rtk.runs.checkpoints import has_checkpoint, point_to, renew
from rtk.runs.folder import RunFolder
from rtk.train.checkpoint import read_state


def keep_best(run: RunFolder, select: str) -> None:
    """Let `best` be what `last` is, and note it in `best.json`, where it is better by a metric.

    A process that is killed between saving an epoch and this leaves it undone; so it is done again, from what
    the checkpoint itself holds, whenever a run goes on.
    """
    last = run.checkpoints / "last"
    state = read_state(last) if has_checkpoint(last) else {}
    if state.get("metrics") and is_better(run, select, state["step"], state["metrics"]):
        point_to(run.checkpoints / "best", renew(last))
        run.write_json("best.json", {"step": state["step"], **state["metrics"]})


def is_better(run: RunFolder, select: str, step: int, metrics: dict[str, float]) -> bool:
    """Whether validation metrics after a step are as good as those of the best checkpoint, or better."""
    best = run.read_json("best.json")
    if best is None or not has_checkpoint(run.checkpoints / "best"):
        return True
    if best["step"] >= step:
        return False
    new, old = metrics[select], best[select]
    if math.isnan(old) or math.isnan(new):
        return math.isnan(old)
    return bool(new >= old if larger_is_better(select) else new <= old)
