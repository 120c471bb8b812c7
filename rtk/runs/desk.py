"""What workers and the folder of their run say to each other, where not every node sees that folder.

An actor on the driver's node, the desk, reads and writes there what a worker asks it to; one serves all
trials of a sweep. Checkpoints do not pass through it: each rank sends its own part to where the run lies.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rtk.config.load import build_config
from rtk.runs.data_record import ENVIRONMENT
from rtk.runs.folder import RunFolder
from rtk.runs.metrics_file import Row
from rtk.runs.plugins import FOLDER as PLUGINS
from rtk.runs.plugins import read_copies, write_copies
from rtk.runs.working_copy import CACHE, cache_folder

ASK_SECONDS = 0.2  # between two questions what is asked of the workers
SAYS = ("append_metrics", "drop_metrics_after", "write_json", "put_text", "remove_json", "add_notice")
ASKS = ("request_save", "clear_save", "request_stop", "clear_stop", "send")
ANSWERS = ("read_metrics", "read_json", "requests")


class Desk:
    """The actor: does what is said to it in the folder of a run, or in those of a sweep's trials.

    Args:
        path: of the run or the sweep, on this actor's node.
        cache: folder of the driver's working copies, which this process may have been started without.
    """

    def __init__(self, path: str, cache: str) -> None:
        self.path = Path(path)
        os.environ[CACHE] = cache

    def do(self, folder: str, name: str, *arguments: Any) -> Any:
        """What a method of a run's folder returns.

        Args:
            folder: name of the run in the sweep's folder; nothing: it is the desk's own.
            name: of the method.
            arguments: of the method.

        Raises:
            ValueError: it is none that workers may call.
        """
        if name not in (known := (*SAYS, *ASKS, *ANSWERS)):
            raise ValueError(f"desk: got {name!r}, wanted one of {', '.join(known)}")
        return getattr(RunFolder(self.path / folder), name)(*arguments)

    def make_run(self, folder: str, config: dict[str, Any], environment: dict[str, Any]) -> None:
        """See the function; the plug-ins are this node's, wherever those are that the config names."""
        here = [str(self.path / PLUGINS / Path(path).name) for path in config["plugins"]]
        make_run(self.path / folder, {**config, "plugins": here}, environment)

    def plugins(self, folder: str) -> dict[str, bytes]:
        """The plug-ins of a run, or of the sweep: contents by name."""
        return read_copies(self.path / folder)


def make_run(path: Path, config: dict[str, Any], environment: dict[str, Any]) -> RunFolder:
    """The folder of a trial's run, made at its first start.

    Args:
        path: of the folder.
        config: as plain data; its `output` is the folder above.
        environment: content of `environment.json`.
    """
    run = RunFolder(path)
    if not (path / ENVIRONMENT).exists():
        shutil.rmtree(path, ignore_errors=True)  # of a process that was killed while it made the folder
        RunFolder.create(build_config(config), path.name)
        run.write_json(ENVIRONMENT, environment)
    return run


@dataclass(frozen=True)
class DeskLine:
    """What a worker has of a desk.

    Attributes:
        desk: the actor.
        folder: name of the run that is spoken of, in the sweep's folder; nothing: the desk is the run's own.
    """

    desk: Any
    folder: str = ""

    def about(self, folder: str) -> DeskLine:
        """The line on which a run of the sweep is spoken of."""
        return replace(self, folder=folder)

    def say(self, name: str, *arguments: Any) -> Any:
        """Have a method of the run's folder called; a reference to what it returns."""
        return self.desk.do.remote(self.folder, name, *arguments)

    def make_run(self, config: dict[str, Any], environment: dict[str, Any]) -> None:
        """Have the run's folder made, if it is not there."""
        import ray

        ray.get(self.desk.make_run.remote(self.folder, config, environment))

    def with_plugins(self, config: dict[str, Any], folder: Path) -> dict[str, Any]:
        """A config as plain data, whose plug-ins are copied into a folder of this node, if it has any."""
        import ray

        if not config["plugins"]:
            return config
        copies = write_copies(ray.get(self.desk.plugins.remote(self.folder)), folder)
        return {**config, "plugins": [copies[Path(path).name] for path in config["plugins"]]}


def open_desk(run: RunFolder) -> DeskLine:
    """Start the desk of a run or a sweep on this node; it ends with this process, or what refers to it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here)
    return DeskLine(desk.remote(str(run.path), str(cache_folder())))


@dataclass(frozen=True)
class DistantRun(RunFolder):
    """A run whose folder is on another node; `path` is where this one keeps its checkpoints.

    What a worker says arrives in the order in which it is said, and is not waited for; that metrics could not
    be written is raised by what is said later.

    Attributes:
        desk: the line to the actor.
    """

    desk: DeskLine = DeskLine(None)
    _heard: dict[str, Any] = field(default_factory=dict, compare=False)
    _rows: list[Any] = field(default_factory=list, compare=False)  # references to what is being written

    def append_metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """See `RunFolder`."""
        self._check_rows(timeout=0)
        self._rows.append(self._say("append_metrics", step, epoch, dict(values)))

    def drop_metrics_after(self, step: int, and_at: str | None = None) -> None:
        """See `RunFolder`."""
        self._ask("drop_metrics_after", step, and_at)

    def read_metrics(self) -> list[Row]:
        """See `RunFolder`."""
        rows: list[Row] = self._ask("read_metrics")
        return rows

    def write_json(self, name: str, content: Any) -> None:
        """See `RunFolder`."""
        self._say("write_json", name, content)

    def put_text(self, name: str, content: str) -> None:
        """See `RunFolder`."""
        self._say("put_text", name, content)

    def remove_json(self, name: str) -> None:
        """See `RunFolder`."""
        self._say("remove_json", name)

    def read_json(self, name: str) -> Any:
        """See `RunFolder`."""
        return self._ask("read_json", name)

    def add_notice(self, text: str, aloud: bool = True) -> None:
        """See `RunFolder`."""
        self._say("add_notice", text, aloud)

    def send(self) -> None:
        """See `RunFolder`."""
        self._ask("send")

    def request_save(self) -> None:
        """See `RunFolder`."""
        self._ask("request_save")
        self._hear(save=True)

    def clear_save(self) -> None:
        """See `RunFolder`."""
        self._ask("clear_save")
        self._hear(save=False)

    def request_stop(self) -> None:
        """See `RunFolder`."""
        self._ask("request_stop")

    def clear_stop(self) -> None:
        """See `RunFolder`."""
        self._ask("clear_stop")

    def stop_requested(self) -> bool:
        """See `requests`."""
        return self.requests()[0]

    def save_requested(self) -> bool:
        """See `requests`."""
        return self.requests()[1]

    def requests(self) -> tuple[bool, bool]:
        """See `RunFolder`; a step does not wait for the answer, which may be a little old."""
        import ray

        now = time.monotonic()
        if "asked" in self._heard and ray.wait([self._heard["asked"]], timeout=0)[0]:
            self._heard["answer"] = ray.get(self._heard.pop("asked"))
        elif "asked" not in self._heard and now - self._heard.get("when", 0.0) >= ASK_SECONDS:
            self._heard.update(asked=self._say("requests"), when=now)
        stop, save = self._heard.get("answer", (False, False))
        return stop, save

    def _hear(self, save: bool) -> None:
        """Know what was just said, whatever an earlier question may still bring."""
        stop, _ = self._heard.get("answer", (False, False))
        self._heard.clear()
        self._heard.update(answer=(stop, save), when=time.monotonic())

    def close(self) -> None:
        """Wait until all that was said has been done."""
        self._ask("requests")
        self._check_rows(timeout=None)

    def _check_rows(self, timeout: float | None) -> None:
        import ray

        if self._rows:
            done, self._rows[:] = ray.wait(self._rows, num_returns=len(self._rows), timeout=timeout)
            ray.get(done)

    def _say(self, name: str, *arguments: Any) -> Any:
        return self.desk.say(name, *arguments)

    def _ask(self, name: str, *arguments: Any) -> Any:
        import ray

        return ray.get(self._say(name, *arguments))
