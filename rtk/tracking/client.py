"""Which tracking server a run has, and a client of it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import Any

from rtk.runs.folder import RunFolder
from rtk.runs.sweep import read_tree, sweep_of
from rtk.tracking.names import uri_of_output

# MLflow's defaults wait for minutes; what is not sent now is sent by the next call. That looks for what was
# done without an answer, which a repetition of MLflow's would do once more: a second run, a second version.
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def tracking_uri(run: RunFolder) -> str:
    """The configured server, or the SQLite file in the output folder."""
    output = (sweep_of(run) or run).path.parent
    return read_tree(run)["tracking"]["uri"] or uri_of_output(output)


def connect(uri: str) -> Any:
    """A client of a tracking server or database, which waits shortly and says nothing by itself."""
    for name, value in SHORT_WAITS.items():
        os.environ.setdefault(name, value)
    import mlflow

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # It prints the traceback of what is raised, as of a full disk; whoever calls says it in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(uri)


def reach_early(uri: str) -> None:
    """Load MLflow and connect, in a thread, for a run that is about to begin.

    With its database, which is made where there is none, that takes seconds of a core. Errors are left to be
    found again by whoever sends. A database is made to its end, also where this process is interrupted.
    """

    def reach() -> None:
        with suppress(Exception):
            connect(uri)

    threading.Thread(target=reach, name="mlflow", daemon=not uri.startswith("sqlite")).start()
