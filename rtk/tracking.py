"""MLflow as a mirror of the run folder.

`metrics.csv` and `config.yaml` are written first; a thread of the driver sends them on. So training
never waits for the tracking server, and what could not be sent is sent by the next `send`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rtk.config.load import flatten
from rtk.run_folder import RunFolder

BATCH = 1000  # metrics in one request; MLflow's own limit
PARAMS_BATCH = 100
# MLflow's defaults wait for minutes; what is not sent now is sent by the next call.
SHORT_WAITS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
logger = logging.getLogger(__name__)


def tracking_uri(run: RunFolder) -> str:
    """The configured server, or the SQLite file in the output folder."""
    return run.config_tree()["tracking"]["uri"] or f"sqlite:///{run.path.parent / 'mlflow.db'}"


class Mirror:
    """Sends a run folder to MLflow, whenever `send` is called; `mlflow.json` says how far it got."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.uri = run, tracking_uri(run)
        self.final_status = "FINISHED"
        self._client: Any = None

    def send(self) -> None:
        """Send rows of `metrics.csv` that have not been sent yet, in batches."""
        state = self._state()
        rows = self.run.read_metrics()
        sent = min(state["sent"], len(rows))  # a resume may have dropped rows
        while sent < len(rows):
            batch = rows[sent : sent + BATCH]
            self._connect().log_batch(state["run_id"], metrics=[_metric(row) for row in batch])
            sent += len(batch)
            self.run.write_json("mlflow.json", {**state, "sent": sent})

    def send_file(self, path: Path, folder: str | None = None) -> None:
        """Keep a file as an artifact of the run."""
        self._connect().log_artifact(self._state()["run_id"], str(path), folder)

    def start(self) -> None:
        """Mark the run as running: it may be one that is resumed."""
        self._connect().update_run(self._state()["run_id"], status="RUNNING")

    def finish(self, status: str) -> None:
        """Send what is left and close the run: `FINISHED`, `FAILED` or `KILLED`."""
        self.send()
        self._connect().set_terminated(self._state()["run_id"], status)

    def _connect(self) -> Any:
        if self._client is None:
            for name, value in SHORT_WAITS.items():
                os.environ.setdefault(name, value)
            import mlflow

            logging.getLogger("mlflow").setLevel(logging.ERROR)
            logging.getLogger("alembic").setLevel(logging.ERROR)
            self._client = mlflow.MlflowClient(self.uri)
        return self._client

    def _state(self) -> dict[str, Any]:
        """The run's MLflow id and number of rows sent; makes the MLflow run at first."""
        state = self.run.read_json("mlflow.json")
        if state is None:
            experiment = self._experiment(self.run.config_tree()["tracking"]["experiment"])
            created = self._connect().create_run(experiment, run_name=self.run.name)
            state = {"uri": self.uri, "run_id": created.info.run_id, "sent": 0}
            self.run.write_json("mlflow.json", state)  # at once: a second run must not be made
            self._describe_run(state["run_id"])
        return state

    def _describe_run(self, run_id: str) -> None:
        """Send the resolved config as params, and the files that describe the run."""
        from mlflow.entities import Param

        client, tree = self._connect(), self.run.config_tree()
        params = [Param(key, str(value)[:6000]) for key, value in flatten(tree)]
        for start in range(0, len(params), PARAMS_BATCH):
            client.log_batch(run_id, params=params[start : start + PARAMS_BATCH])
        for name in ("config.yaml", "environment.json"):
            if (self.run.path / name).exists():
                client.log_artifact(run_id, str(self.run.path / name))

    def _experiment(self, name: str) -> str:
        found = self._connect().get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        location = (self.run.path.parent / "mlartifacts").as_uri() if self.uri.startswith("sqlite") else None
        return self._connect().create_experiment(name, artifact_location=location)


def _metric(row: dict[str, Any]) -> Any:
    from mlflow.entities import Metric

    return Metric(row["key"], row["value"], int(row["time"] * 1000), row["step"])


@contextmanager
def mirrored(run: RunFolder, seconds: float = 2.0) -> Iterator[Mirror]:
    """Within it, a thread keeps MLflow up to date; on leaving, the rest is sent.

    A server that cannot be reached costs a warning, never the run.
    """
    mirror, leave = Mirror(run), threading.Event()

    def keep_sending() -> None:
        _quietly(mirror.start)
        while not leave.wait(seconds):
            _quietly(mirror.send)

    thread = threading.Thread(target=keep_sending, name="mlflow-mirror", daemon=True)
    thread.start()
    status = "FAILED"
    try:
        yield mirror
        status = mirror.final_status
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        leave.set()
        thread.join()
        _quietly(mirror.finish, status)


def _quietly(action: Any, *arguments: Any) -> None:
    try:
        action(*arguments)
    except Exception as error:  # MLflow raises many kinds; none of them may cost the run
        logger.warning("MLflow is not reachable, metrics stay in metrics.csv: %s", str(error).split("\n")[0])


def send_evaluation(run: RunFolder) -> None:
    """Send the metrics and files of an evaluation to the run's MLflow run."""
    mirror = Mirror(run)
    _quietly(mirror.send)
    for path in sorted(run.evaluation.iterdir()):
        if path.is_file():
            _quietly(mirror.send_file, path, "evaluation")
