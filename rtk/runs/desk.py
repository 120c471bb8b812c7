"""What workers and the folder of their run say to each other, where not every node sees that folder.

An actor on the driver's node, the desk, reads and writes there what a worker asks it to. Checkpoints do not
pass through it: each rank sends its own part to where the run lies.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtk.runs.folder import RunFolder
from rtk.runs.metrics_file import Row

ASK_SECONDS = 0.2  # between two questions what is asked of the workers
SAYS = ("append_metrics", "drop_metrics_after", "write_json", "remove_json", "add_notice")
ASKS = ("request_save", "clear_save")
ANSWERS = ("read_metrics", "read_json", "requests")


class Desk:
    """The actor: does what is said to it in the folder of a run.

    Args:
        path: of the folder, on its node.
    """

    def __init__(self, path: str) -> None:
        self.run = RunFolder(Path(path))

    def do(self, name: str, *arguments: Any) -> Any:
        """What a method of the run's folder returns.

        Raises:
            ValueError: it is none that workers may call.
        """
        if name not in (known := (*SAYS, *ASKS, *ANSWERS)):
            raise ValueError(f"desk: got {name!r}, wanted one of {', '.join(known)}")
        return getattr(self.run, name)(*arguments)


def open_desk(run: RunFolder) -> Any:
    """Start the desk of a run on this node; it ends with this process, or with what refers to it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Desk).options(num_cpus=0, scheduling_strategy=here).remote(str(run.path))


@dataclass(frozen=True)
class DistantRun(RunFolder):
    """A run whose folder is on another node; `path` is where this one keeps its checkpoints.

    What a worker says arrives in the order in which it is said, and is not waited for; that metrics could not
    be written is raised by what is said later.

    Attributes:
        desk: the actor.
    """

    desk: Any = None
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

    def remove_json(self, name: str) -> None:
        """See `RunFolder`."""
        self._say("remove_json", name)

    def read_json(self, name: str) -> Any:
        """See `RunFolder`."""
        return self._ask("read_json", name)

    def add_notice(self, text: str, aloud: bool = True) -> None:
        """See `RunFolder`."""
        self._say("add_notice", text, aloud)

    def request_save(self) -> None:
        """See `RunFolder`."""
        self._ask("request_save")
        self._hear(save=True)

    def clear_save(self) -> None:
        """See `RunFolder`."""
        self._ask("clear_save")
        self._hear(save=False)

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
            self._heard.update(asked=self.desk.do.remote("requests"), when=now)
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
        return self.desk.do.remote(name, *arguments)

    def _ask(self, name: str, *arguments: Any) -> Any:
        import ray

        return ray.get(self.desk.do.remote(name, *arguments))
