"""The folder of a run: the one source of truth that training writes and everything else reads."""

from __future__ import annotations

import csv
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rtk.config.errors import ConfigError
from rtk.config.load import build_config, dump_config
from rtk.config.schema import RunConfig
from rtk.config.yaml_files import read_mapping
from rtk.runs.atomic import write_json, write_text

COLUMNS = ("step", "epoch", "time", "key", "value")


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME` with `config.yaml`, `environment.json`, `metrics.csv`, `checkpoints/`, `evaluation/`."""

    path: Path

    @classmethod
    def create(cls, config: RunConfig, name: str | None = None) -> RunFolder:
        """Make the folder with the resolved config in it.

        Args:
            config: resolved config; the folder is made in its `output`.
            name: name of the run; None: `{recipe}-{date}-{time}-{hex4}`.

        Raises:
            ConfigError: where the output folder cannot be written.
        """
        folder = cls(Path(config.output).absolute() / (name or unique_name(config.name)))
        try:
            folder.checkpoints.mkdir(parents=True)
            folder.evaluation.mkdir()
            (folder.path / "config.yaml").write_text(dump_config(config))
        except OSError as error:
            raise ConfigError(f"output: cannot write to {config.output!r} ({error.strerror})") from None
        return folder

    @classmethod
    def open(cls, run: str | Path, output: str = "runs") -> RunFolder:
        """The folder of an existing run, by path or by name under `output`.

        Raises:
            ConfigError: where there is no such run.
        """
        for path in (Path(run), Path(output) / str(run)):
            if (path / "config.yaml").is_file():
                return cls(path.absolute())
        raise ConfigError(
            f"run: got {str(run)!r}, wanted a run folder (with config.yaml) or a name under {output}/"
        )

    @property
    def name(self) -> str:
        """Name of the run, of its MLflow run and of its Ray job."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of `last` and `best`."""
        return self.path / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """Folder of predictions, tables and the report."""
        return self.path / "evaluation"

    def config_tree(self) -> dict[str, Any]:
        """The resolved config as plain data."""
        return read_mapping(self.path / "config.yaml")

    def config(self) -> RunConfig:
        """The resolved config."""
        return build_config(self.config_tree())

    def change_config(self, config: RunConfig, step: int) -> None:
        """Take over a resumed run's config; the one until `step` is kept as `config.until-STEP.yaml`."""
        changed = dump_config(config)
        if changed != (before := (self.path / "config.yaml").read_text()):
            if not (self.path / f"config.until-{step}.yaml").exists():  # or nothing was trained with it
                write_text(self.path / f"config.until-{step}.yaml", before)
            write_text(self.path / "config.yaml", changed)

    # -- metrics.csv: one value a row, so that training, validation and evaluation can share it

    def append_metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add rows `step, epoch, time, key, value`."""
        path = self.path / "metrics.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            now = f"{time.time():.3f}"
            writer.writerows([step, f"{epoch:.4f}", now, key, repr(float(v))] for key, v in values.items())

    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of `metrics.csv` with numbers as numbers."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            complete = [row for row in csv.DictReader(file) if row["value"]]
        numbers = {"step": int, "epoch": float, "time": float, "value": float}
        return [{**row, **{name: kind(row[name]) for name, kind in numbers.items()}} for row in complete]

    def drop_metrics_after(self, step: int, and_at: str | None = None) -> None:
        """Forget rows past a step, which a resumed run writes anew; and those at it whose key starts so."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        if and_at is not None:
            rows = [row for row in rows if row["step"] < step or not row["key"].startswith(and_at)]
        text = [",".join(COLUMNS), *(",".join(str(row[column]) for column in COLUMNS) for row in rows)]
        write_text(self.path / "metrics.csv", "\n".join(text) + "\n")

    # -- small files between the driver and the workers

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file at once: a reader sees the old or the new one."""
        write_json(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Content of a JSON file; None where it is not there."""
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else None

    def request_stop(self) -> None:
        """Ask the workers to write a checkpoint and end."""
        (self.path / "stop").touch()

    def clear_stop(self) -> None:
        """Take the request back."""
        (self.path / "stop").unlink(missing_ok=True)

    def stop_requested(self) -> bool:
        """Whether the workers should end."""
        return (self.path / "stop").exists()


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Within it, no other process may train in a run's or a sweep's folder; the lock goes with the process.

    Args:
        folder: of the run or sweep.
        what: `run` or `sweep`, for the error.

    Raises:
        ConfigError: where another process holds it.
    """
    lock = FileLock(folder / ".driver.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"{what}: {folder.name} is being run by another process") from None
    try:
        yield
    finally:
        lock.release()


def unique_name(prefix: str) -> str:
    """`{prefix}-{date}-{time}-{hex4}`."""
    return f"{prefix}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def open_runs(runs: Iterable[str | Path], output: str = "runs") -> list[RunFolder]:
    """Folders of several runs."""
    return [RunFolder.open(run, output) for run in runs]
