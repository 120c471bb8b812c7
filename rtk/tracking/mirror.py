"""MLflow's copy of a run's or a sweep's folder.

Everything is written into the run's folder first; a thread of the driver sends it on. So training never
waits for the tracking server, and what could not be sent is sent by the next `send`, also by `rtk sync`
in another process. `mlflow.json` says what has been sent; every step may be repeated without harm.
The names that MLflow shows are listed in docs/mlflow.md.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from rtk.runs.checkpoints import STATE, fetch_whole, has_checkpoint, resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runs.metrics_file import MetricsTail, Row
from rtk.runs.sweep import SWEEP_FILE, read_tree, sweep_of
from rtk.tracking.client import connect, tracking_uri
from rtk.tracking.description import params_of, tags_of
from rtk.tracking.names import mlflow_model
from rtk.tracking.refusals import DELETED, check_present, deleted_run, is_refusal, send_all, unless_there
from rtk.tracking.rows import as_metric, is_of_a_population, mark, with_epochs
from rtk.tracking.status import milliseconds

BATCH = 1000  # metrics in one request; MLflow's own limit
PARAMS_BATCH = 100
DESCRIPTIONS = ("config.yaml", "environment.json", "skipped.csv", SWEEP_FILE)
logger = logging.getLogger(__name__)


class Mirror:
    """Brings MLflow up to a run's folder (or a sweep's), whenever `send` is called."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.uri = run, tracking_uri(run)
        self.final_status = "FINISHED"
        self._client: Any = None
        self._tail = MetricsTail(run.metrics_file)
        self._unsent: list[Row] = []
        self._by_time: bool | None = None
        self._was_found = False
        self._refused: set[str] = set()

    def send(self, files: bool = False) -> int:
        """Send what has not been sent yet; with `files` also artifacts and models. Returns the rows sent.

        What MLflow refuses for good is named in a warning, once, and left out.

        Raises:
            DeletedError: the run or its experiment is deleted in MLflow.
            Exception: MLflow's, where the server cannot be reached; what was sent until then is noted.
        """
        with FileLock(self.run.path / ".mlflow.lock"):
            state = self._state()
            sent = self._send_rows(state)
            if files:
                self._send_files(state)
                for model, reason in send_all(lambda part: self._register(state, part[0]), self._models()):
                    self._refuse(model, reason)
            self._send_status(state)
        return sent

    def send_status_again(self) -> None:
        """Send how the run stands, after something else has changed that in MLflow."""
        with FileLock(self.run.path / ".mlflow.lock"):
            state = self._state()
            self._note(state, status=None)
            self._send_status(state)

    def _connect(self) -> Any:
        if self._client is None:
            self._client = connect(self.uri)
        return self._client

    # -- the run itself

    def _state(self) -> dict[str, Any]:
        """What has been sent; makes the MLflow run at first, and where the database has been replaced."""
        state: dict[str, Any] | None = self.run.read_json("mlflow.json")
        if state is None or state["uri"] != self.uri or not self._is_known(state["run_id"]):
            run_id = self._find_run() or self._create_run()
            state = {"uri": self.uri, "run_id": run_id, "described": False, "status": None}
            state |= {"marks": {}, "files": {}, "models": {}}
            self._tail.restart()
            self._note(state)
        if not state["described"]:
            self._describe(state)
        return state

    def _note(self, state: dict[str, Any], **changes: Any) -> None:
        state.update(changes)
        self.run.write_json("mlflow.json", state)

    def _is_known(self, run_id: str) -> bool:
        """Whether MLflow has a run; asked once."""
        from mlflow.exceptions import MlflowException

        if not self._was_found:
            try:
                self._check_active(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            self._was_found = True
        return True

    def _check_active(self, run_id: str) -> None:
        info = self._connect().get_run(run_id).info
        if info.lifecycle_stage == DELETED:
            check_present(self._connect().get_experiment(info.experiment_id), self.uri)
            raise deleted_run(run_id, self.uri)

    def _find_run(self) -> str | None:
        """An MLflow run that was made for this folder, but whose id could not be written down.

        Not that of another run in a folder of the same name, which is gone: it started at another time.
        """
        folder, started = str(self.run.path), milliseconds(self.run, "started")
        like = folder.replace("'", "_").replace('"', "_")  # a quote cannot be written; `_` is any character
        found = self._connect().search_runs([self._experiment()], f"tags.`rtk.folder` LIKE '{like}'")
        same = [run.info for run in found if run.data.tags["rtk.folder"] == folder]
        return next((info.run_id for info in same if started in (None, info.start_time)), None)

    def _create_run(self) -> str:
        tags = {"rtk.folder": str(self.run.path)}
        parent = sweep_of(self.run)
        if parent is not None:
            tags["mlflow.parentRunId"] = Mirror(parent)._state()["run_id"]
        started = milliseconds(self.run, "started")
        run = self._connect().create_run(self._experiment(), started, tags, run_name=self.run.name)
        return str(run.info.run_id)

    def _experiment(self) -> str:
        client, name = self._connect(), read_tree(self.run)["tracking"]["experiment"]
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = (sweep_of(self.run) or self.run).path.parent / "mlartifacts"
            # A tracking server knows where it keeps files; a database does not.
            location = None if self.uri.startswith(("http", "databricks")) else folder.as_uri()
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except Exception:  # another process was first, or the server is gone
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        check_present(found, self.uri)
        return str(found.experiment_id)

    def _describe(self, state: dict[str, Any]) -> None:
        """Send config, seed, versions and data hashes as params, the commit as tags."""
        params, log = params_of(self.run), partial(self._log, state["run_id"])
        for start in range(0, len(params), PARAMS_BATCH):
            batch = params[start : start + PARAMS_BATCH]
            for param, reason in send_all(lambda part: log(params=part), batch):
                self._refuse(param.key, reason)
        for tag, reason in send_all(lambda part: log(tags=part), tags_of(self.run)):
            self._refuse(tag.key, reason)
        self._note(state, described=True)

    def _log(self, run_id: str, **batch: Any) -> None:
        """Log metrics, params or tags; a deleted run refuses whatever it is, which is said."""
        try:
            self._connect().log_batch(run_id, **batch)
        except Exception as error:
            if is_refusal(error):
                self._check_active(run_id)
            raise

    def _refuse(self, name: str, reason: str) -> None:
        """Say, once, what MLflow does not take."""
        if name not in self._refused:
            self._refused.add(name)
            logger.warning("%s: MLflow refuses %r, it is left out there: %s", self.run.name, name, reason)

    def _send_status(self, state: dict[str, Any]) -> None:
        noted = self.run.read_json("status.json")
        if noted is None or noted == state["status"]:
            return
        client, run_id, status = self._connect(), state["run_id"], noted["status"]
        for key, value in noted["tags"].items():
            client.set_tag(run_id, f"rtk.{key}", value)
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status, milliseconds(self.run, "ended"))
        self._note(state, status=noted)

    # -- metrics

    def _send_rows(self, state: dict[str, Any]) -> int:
        """Send what is new in `metrics.csv`, and beyond the mark of its key, in batches."""
        if self._by_time is None:
            self._by_time = is_of_a_population(self.run)
        marks, by_time = state["marks"], self._by_time
        new = list(with_epochs(self._tail.read_new()))
        self._unsent = new if self._tail.from_start else self._unsent + new
        rows = [row for row in self._unsent if mark(row, by_time) > marks.get(row["key"], -1)]
        rows = [row for row in rows if row["key"] not in self._refused]
        refused, log = 0, partial(self._log, state["run_id"])
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for row, reason in send_all(lambda part: log(metrics=[as_metric(row) for row in part]), batch):
                self._refuse(row["key"], reason)
                refused += 1
            taken = [row for row in batch if row["key"] not in self._refused]
            self._note(state, marks=state["marks"] | {row["key"]: mark(row, by_time) for row in taken})
        self._unsent = []
        return len(rows) - refused

    # -- files and models

    def _send_files(self, state: dict[str, Any]) -> None:
        """Upload files that are new or have changed: descriptions, evaluation, and checkpoints to keep."""
        for name, path in self._files():
            stamp = f"{path.stat().st_mtime_ns}-{path.stat().st_size}"
            if state["files"].get(str(name)) == stamp or str(name) in self._refused:
                continue
            refused = dict(send_all(partial(self._upload, state["run_id"]), [(name, path)]))
            if refused:
                self._refuse(str(name), refused[name, path])
            else:
                self._note(state, files={**state["files"], str(name): stamp})

    def _upload(self, run_id: str, part: Sequence[tuple[Path, Path]]) -> None:
        ((name, path),) = part
        folder = str(name.parent) if name.parent != Path() else None
        self._connect().log_artifact(run_id, str(path), folder)

    def _files(self) -> Iterator[tuple[Path, Path]]:
        """Names of the artifacts, and the files that they are of."""
        descriptions = (self.run.path / name for name in DESCRIPTIONS)
        yield from ((Path(path.name), path) for path in descriptions if path.exists())
        folders = {Path("evaluation"): self.run.evaluation}
        folders |= {Path("checkpoints", alias): folder for alias, folder in self._checkpoints().items()}
        for name, folder in folders.items():
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    yield name / path.relative_to(folder), path

    def _checkpoints(self) -> dict[str, Path]:
        """Folders of the checkpoints to keep, by alias."""
        kept = ("best", "last") if self._keeps() else ()
        there = filter(has_checkpoint, (self.run.checkpoints / alias for alias in kept))
        found = {path.name: resolve_checkpoint(path) for path in there}
        for folder in found.values():
            fetch_whole(folder)
        return found

    def _keeps(self) -> bool:
        return bool((self.run.read_json("status.json") or {}).get("keep_checkpoints"))

    def _models(self) -> list[str]:
        """Name of the recipe's registered model, where the run's checkpoints become versions of it."""
        return [mlflow_model(read_tree(self.run)["name"])] if self._keeps() else []

    def _register(self, state: dict[str, Any], model: str) -> None:
        """Make `best` and `last` versions of a registered model, under these aliases."""
        client = self._connect()
        root = client.get_run(state["run_id"]).info.artifact_uri
        for alias, folder in self._checkpoints().items():
            step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]
            if state["models"].get(alias) == step:
                continue
            unless_there(partial(client.create_registered_model, model))
            source, tags = f"{root}/checkpoints/{alias}", {"rtk.step": str(step), "rtk.folder": str(folder)}
            made = client.search_model_versions(f"run_id = '{state['run_id']}'")
            same = [one for one in made if (one.name, one.source, one.tags) == (model, source, tags)]
            version = (
                same[0] if same else client.create_model_version(model, source, state["run_id"], tags=tags)
            )
            client.set_registered_model_alias(model, alias, version.version)
            self._note(state, models={**state["models"], alias: step})
