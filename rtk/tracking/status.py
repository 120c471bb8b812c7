"""How a run stands and since when, written down for MLflow in `status.json`."""

from __future__ import annotations

import time
from typing import Any

from rtk.runs.folder import RunFolder


def note_status(
    run: RunFolder, status: str, keep_checkpoints: bool = False, ended: float | None = None, **tags: Any
) -> None:
    """Write down how a run stands and since when, for the next `send`.

    A run starts when it first runs, and ends when it has last ended: what is done with it later (an
    evaluation, an export, a late `rtk sync`) is no part of its duration.

    Args:
        run: the run.
        status: MLflow's `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        keep_checkpoints: whether its checkpoints are uploaded and registered as models.
        ended: when it did, seconds since 1970; None: now.
        tags: further tags of the run (`rtk.KEY`).
    """
    before, now = run.read_json("status.json") or {}, time.time()
    times = {name: before[name] for name in ("started", "ended") if name in before}
    if status == "RUNNING":
        times = {"started": times.get("started", now)}
    else:
        times.setdefault("ended", ended or now)
    run.write_json(
        "status.json", {"status": status, "keep_checkpoints": keep_checkpoints, "tags": tags, **times}
    )


def milliseconds(run: RunFolder, name: str) -> int | None:
    """When a run `started` or `ended`, as MLflow has it; None where it is not written down."""
    noted = (run.read_json("status.json") or {}).get(name)
    return None if noted is None else int(noted * 1000)
