"""Nodes that are about to be taken away, as spot machines are: the run saves as soon as that is known.

Ray calls such a node draining. An autoscaler says it, or a script on the node that reads the metadata of the
cloud, by `ray drain-node`; and so does `ray start --block` where it gets SIGTERM, and waits half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rtk.runs.folder import RunFolder
from rtk.runtime.ray_session import draining_nodes
from rtk.runtime.repeating import repeating
from rtk.train.pulse import FOLDER

LOOK_SECONDS = 1.0


@contextmanager
def watched_node(run: RunFolder) -> Iterator[None]:
    """Look from a thread while the body trains as the only worker of a run, as a trial of a sweep does."""
    leaving = LeavingNodes(run, workers=1)

    def look() -> None:
        with suppress(Exception):  # Ray is ending, and the trial with it, or the disk is full
            leaving.look()

    with repeating(look, LOOK_SECONDS, "leaving"):
        yield


class LeavingNodes:
    """Asks a run for a checkpoint, once for each node of its workers that is being drained.

    Args:
        run: the run.
        workers: the most that it may have.
        aloud: print what is found too; not where this process shows the run's notices.
    """

    def __init__(self, run: RunFolder, workers: int, aloud: bool = True) -> None:
        self.run, self.workers, self.aloud = run, workers, aloud
        self._known: set[str] = set()
        self._looked = time.monotonic()

    def look(self) -> None:
        """Look, if it is time, and ask for a checkpoint where a node is found to leave."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked, draining = time.monotonic(), draining_nodes()
        hosts = self._hosts() if draining else {}
        hosts = {node: host for node, host in hosts.items() if node in draining}
        new = hosts.keys() - self._known
        if not new:
            return
        self._known |= new
        self.run.request_save()
        for node in sorted(new):
            self.run.add_notice(f"{_words(hosts[node], draining[node])}: writing a checkpoint", self.aloud)

    def _hosts(self) -> dict[str, str]:
        """Names of the machines that the ranks are on, by the ids of their nodes."""
        names = (f"{FOLDER}/{rank:05d}.json" for rank in range(self.workers))
        pulses = [pulse for name in names if (pulse := self.run.read_json(name)) is not None]
        ranks = pulses[0].get("ranks", len(pulses)) if pulses else 0  # a larger group may have been before
        return {pulse["node"]: pulse["host"] for pulse in pulses[:ranks]}


def _words(host: str, deadline: float | None) -> str:
    left = "soon" if deadline is None else f"in {max(0.0, deadline - time.time()):.0f} s"
    return f"the node {host} is taken away {left}"
