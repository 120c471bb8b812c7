"""The folder of a run: the one source of truth that training writes and everything else reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rtk.config.errors import ConfigError
from rtk.config.load import build_config
from rtk.config.plugin_files import find_plugins, load_plugins, plugin_hashes
from rtk.config.schema import RunConfig
from rtk.config.yaml_files import dump_yaml, read_mapping
from rtk.runs.atomic import write_json, write_text
from rtk.runs.data_record import ENVIRONMENT, located
from rtk.runs.json_files import read_json
from rtk.runs.metrics_file import Row, append_rows, read_rows, replace_rows
from rtk.runs.names import find_folder, unique_name
from rtk.runs.plugins import copy_plugins, recorded_plugins, tree_with_copies, unchanged_copies
from rtk.runs.stored_checkpoints import pull_checkpoints, send_what_led_here
from rtk.runs.working_copy import CHECKPOINTS, OPENED, local_folder, place_of, pull

# What a run did where its config is from before the key, whose default is another for new ones.
BEFORE_THE_KEY = {"data": {"exif": "ignore"}, "model": {"batchnorm": "local"}}
NOTICES = "notices.log"  # what workers say to whoever watches


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME`: `config.yaml`, `plugins/`, `environment.json`, `metrics.csv`, `checkpoints/`, ..."""

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
        folder = cls(local_folder(config.output) / (name or unique_name(config.name)))
        try:
            folder.checkpoints.mkdir(parents=True)
            folder.evaluation.mkdir()
            copy_plugins(config.plugins, folder.path)
            write_text(folder.path / "config.yaml", dump_yaml(tree_with_copies(config)))
            OPENED.add(folder.path)
        except OSError as error:
            raise ConfigError(f"output: cannot write to {config.output!r} ({error.strerror})") from None
        return folder

    @classmethod
    def open(cls, run: str | Path, output: str = "runs") -> RunFolder:
        """The folder of an existing run, by path, by name under `output`, or `last`: the one started last.

        Raises:
            ConfigError: where there is no such run.
        """
        path = find_folder(run, output, "config.yaml")
        if path is None:
            raise ConfigError(
                f"run: got {str(run)!r}, wanted a run folder (with config.yaml) or a name under {output}/"
            )
        pull_checkpoints(path / CHECKPOINTS)
        return cls(path)

    @classmethod
    def at(cls, place: str) -> RunFolder:
        """The folder of a run that another process has opened, on any node; see `place`."""
        path = local_folder(place)
        pull(path, lambda name: name.parts[0] in ("config.yaml", ENVIRONMENT, "plugins"))
        pull_checkpoints(path / CHECKPOINTS)
        return cls(path)

    @property
    def place(self) -> str:
        """Its path; on object storage its URI, which means the same on every node."""
        return place_of(self.path)

    @property
    def name(self) -> str:
        """Name of the run, of its MLflow run and of its Ray job."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of `last` and `best`."""
        return self.path / CHECKPOINTS

    @property
    def evaluation(self) -> Path:
        """Folder of predictions, tables and the report."""
        return self.path / "evaluation"

    def config_tree(self) -> dict[str, Any]:
        """The resolved config as plain data."""
        return as_trained(read_mapping(self.path / "config.yaml"))

    def config(self) -> RunConfig:
        """The resolved config, its images wherever they are found now; raises as `stored_config`."""
        return self.located(self.stored_config())

    def stored_config(self) -> RunConfig:
        """The resolved config as written down; its plug-ins are loaded, and those that evaluations brought.

        Raises:
            ConfigError: a plug-in has changed since.
        """
        load_plugins(unchanged_copies(self.path))
        return build_config(self.config_tree(), folder=self.path)

    def located(self, config: RunConfig) -> RunConfig:
        """A config of this run with the relative paths of images found again, see `data_record.located`."""
        return config.model_copy(update={"data": located(config.data, self.path)})

    def add_plugins(self, given: Sequence[str]) -> None:
        """Load plug-ins that an evaluation brings, and keep copies of them in place of those before.

        Args:
            given: paths.

        Raises:
            ConfigError: as `find_plugins` and `load_plugins`; or it is another than the run was trained with.
        """
        paths, recorded = find_plugins(given, Path()), recorded_plugins(self.path)
        trained = [Path(path).name for path in self.config_tree().get("plugins", ())]
        for name, sha256 in plugin_hashes(paths).items():
            if name in trained and recorded.get(name) not in (None, sha256):
                raise ConfigError(
                    f"--plugin {name}: got SHA-256 {sha256}, but the run was trained with {recorded[name]}"
                )
        if paths:
            load_plugins(paths)
            copy_plugins(paths, self.path)
            environment = self.read_json("environment.json") or {}
            self.write_json("environment.json", environment | {"plugins": recorded | plugin_hashes(paths)})

    def change_config(self, config: RunConfig, step: int) -> None:
        """Take over a resumed run's config; the one until `step` is kept as `config.until-STEP.yaml`."""
        changed = dump_yaml(tree_with_copies(config))
        if changed != (before := (self.path / "config.yaml").read_text(encoding="utf-8")):
            if not (self.path / f"config.until-{step}.yaml").exists():  # or nothing was trained with it
                write_text(self.path / f"config.until-{step}.yaml", before)
            write_text(self.path / "config.yaml", changed)
        (self.path / "config.yaml").touch()  # the run that was started last

    # -- metrics.csv

    @property
    def metrics_file(self) -> Path:
        """Where the metrics are, see `rtk.runs.metrics_file`."""
        return self.path / "metrics.csv"

    def append_metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add rows `step, epoch, time, key, value`."""
        append_rows(self.metrics_file, step, epoch, values)

    def read_metrics(self) -> list[Row]:
        """Rows of `metrics.csv` with numbers as numbers."""
        return read_rows(self.metrics_file)

    def drop_metrics_after(self, step: int, and_at: str | None = None) -> None:
        """Forget rows past a step, which a resumed run writes anew; and those at it whose key starts so."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        if and_at is not None:
            rows = [row for row in rows if row["step"] < step or not row["key"].startswith(and_at)]
        replace_rows(self.metrics_file, rows)

    # -- small files between the driver and the workers

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file at once: a reader sees the old or the new one."""
        path = self.path / name
        if path.parent != self.path:
            path.parent.mkdir(exist_ok=True)
        write_json(path, content)

    def put_text(self, name: str, content: str) -> None:
        """Write a text at once: a reader sees the old or the new one."""
        write_text(self.path / name, content)

    def read_json(self, name: str) -> Any:
        """Content of a JSON file; None where it is not there.

        Raises:
            ConfigError: it is damaged, see `rtk.runs.json_files`.
        """
        path = self.path / name
        return read_json(path, name) if path.exists() else None

    def remove_json(self, name: str) -> None:
        """Delete a JSON file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def add_notice(self, text: str, aloud: bool = True) -> None:
        """Say something to whoever watches the run, from any process; a full disk is no reason to fail.

        Args:
            text: a line.
            aloud: print it too; not where this process shows the run's notices.
        """
        if aloud:
            print(text, file=sys.stderr, flush=True)
        with suppress(OSError), (self.path / NOTICES).open("a", encoding="utf-8") as file:
            file.write(text.replace("\n", " ") + "\n")

    def read_notices(self) -> list[str]:
        """What has been said, the oldest first."""
        path = self.path / NOTICES
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def request_stop(self) -> None:
        """Ask the workers to write a checkpoint and end."""
        (self.path / "stop").touch()

    def clear_stop(self) -> None:
        """Take the request back."""
        (self.path / "stop").unlink(missing_ok=True)

    def stop_requested(self) -> bool:
        """Whether the workers should end."""
        return (self.path / "stop").exists()

    def request_save(self) -> None:
        """Ask the workers to write a checkpoint and go on."""
        (self.path / "save").touch()

    def clear_save(self) -> None:
        """Take the request back, or say that it has been met."""
        (self.path / "save").unlink(missing_ok=True)

    def save_requested(self) -> bool:
        """Whether the workers should write a checkpoint, or have yet to finish it."""
        return (self.path / "save").exists()

    def requests(self) -> tuple[bool, bool]:
        """Whether the workers should end, and whether they should save."""
        return self.stop_requested(), self.save_requested()

    def send(self) -> None:
        """Send now what is new, where the run lies on object storage."""
        send_what_led_here(self.path)

    def close(self) -> None:
        """Have all be written that was to be: it is."""


def as_trained(tree: dict[str, Any]) -> dict[str, Any]:
    """A stored config, in which keys that are newer than it say what was done without them."""
    tree = tree | {section: {**keys, **tree.get(section, {})} for section, keys in BEFORE_THE_KEY.items()}
    return {**tree, "objective": _with_mixoe(tree["objective"])} if "objective" in tree else tree


def _with_mixoe(objective: dict[str, Any]) -> dict[str, Any]:
    """MixOE was called openmix while there was no OpenMix: a config of then names no `mixoe`."""
    was_openmix = "mixoe" not in objective and objective.get("openmix", {}).get("weight", 0) > 0
    if not was_openmix:
        return objective
    rest = {name: block for name, block in objective.items() if name != "openmix"}
    return {**rest, "mixoe": objective["openmix"]}


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes from training in a run's or a sweep's folder; the lock ends with the process.

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


def is_held(folder: Path) -> bool:
    """Whether a process trains in a run's or a sweep's folder; also where nobody may look."""
    try:
        with held(folder, "run"):
            return False
    except (ConfigError, OSError):
        return True
