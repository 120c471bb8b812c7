"""Kills of `faults.py` of whole nodes, which share nothing but a network and object storage.

Three nodes (`cluster_nodes.py`) of one CPU each have a run of two workers. A node loses its power and gets it
back, the head's with the driver and Ray's own head among them, or a worker is killed. Where it was the head,
the run is resumed there by its URI, while the workers that it has left on other nodes may still be at work.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import psutil
from cluster_nodes import CACHE, SERVER, Node, bridge, nodes
from cluster_nodes import environment as of_node
from cluster_storage import BUCKET, DIGITS, keys, storage, upload_digits
from faults_ends import from_elsewhere
from faults_runs import (
    RTK,
    Disturb,
    Kept,
    Row,
    below,
    command,
    environment,
    has_told,
    is_finished,
    is_saving,
    ranks_of,
    reference_folder,
    reference_run,
    step_of,
    told,
)

from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import cache_folder, local_folder, store_of

ON_NODES = ["AdamW, ZeRO-3", "SURE+ (F-SAM, EMA), ZeRO-3", "AdamW, ZeRO-3, streamed", "RAT, ZeRO-2"]
COUNT = 3  # nodes: two workers, and a CPU that decodes what is streamed
WAITS = ["train.wait_for_workers=3min"]
NODE, HEAD, WORKER = "node", "head's node", "worker"
MOMENTS = ("any", "save", "start")
KILLS_PER_RUN = 3
JOINS = 4  # tries: where much else goes on here, Ray does not start in the time that it gives itself


class Machines:
    """The nodes, with Ray on them.

    Args:
        made: the nodes, the head first.
        output: URI of the runs' folder.
    """

    def __init__(self, made: Sequence[Node], output: str) -> None:
        self.head, *self.others = made
        self.output = output
        self.pool = ThreadPoolExecutor(len(made))

    def join(self) -> None:
        """Let all be nodes of a new cluster."""
        join(self.head)
        list(self.pool.map(join, self.others))

    def return_all(self, lost: Sequence[Node]) -> None:
        """Give nodes their power back at once."""
        list(self.pool.map(lambda node: return_after(node, 0), lost))

    def find_run(self, name: str) -> RunFolder:
        """The head's working copy of a run, as this process sees it."""
        path = local_folder(self.output) / name
        return RunFolder(self.head.folder(CACHE) / path.relative_to(cache_folder()))

    def on(self, host: str) -> Node:
        """A node by its name."""
        return next(node for node in (self.head, *self.others) if node.name == host)


def join(node: Node) -> None:
    """Start Ray on a node, which is switched off and on again where that fails."""
    for attempt in range(JOINS):
        try:
            node.join(cpus=1)
            return
        except (RuntimeError, subprocess.TimeoutExpired):
            if attempt + 1 == JOINS:
                raise
            node.kill()
            node.start()


def return_after(node: Node, seconds: float) -> None:
    """Give a node its power back after some time."""
    time.sleep(seconds)
    node.start()
    join(node)


class OnNodes(Kept):
    """A run that is kept alive on the head; see `Kept`."""

    look_every = 0.02

    def __init__(self, machines: Machines, name: str, command: Sequence[str], log: Path) -> None:
        self.machines, self.name, self.place = machines, name, f"{machines.output}/{name}"
        super().__init__(machines.find_run(name), command, log)

    def launch(self, command: Sequence[str], log: IO[str]) -> Any:
        """Start a program on the head."""
        self.run = self.machines.find_run(self.name)  # of the head as it is now
        return self.machines.head.popen(command, log)

    def trains(self) -> bool:
        """Whether two workers have told of a step."""
        ranks = ranks_of(self.run)
        return len(ranks) == 2 and has_told(self.run, ranks)

    def saves(self) -> bool:
        """Whether a checkpoint is being written, on the node of the first worker."""
        ranks, here = ranks_of(self.run), self.machines
        if not ranks:
            return False
        inside = Path(CACHE, local_folder(self.place).relative_to(cache_folder()))
        return is_saving(RunFolder(here.on(ranks[0][0]).folder(str(inside))))

    def lose_node(self, draw: random.Random, seconds: float) -> Future[Any]:
        """Take the power of a node that is not the head, with a worker if there is one."""
        trained = {host for host, _, _ in ranks_of(self.run)}
        there = [node for node in self.machines.others if node.name in trained] or self.machines.others
        lost = draw.choice(there)
        lost.kill()
        return self.machines.pool.submit(return_after, lost, seconds)

    def lose_head(self, draw: random.Random, seconds: float) -> Future[Any]:
        """Take the power of the head, and resume the run on it once it has that back; the others follow."""
        head, others = self.machines.head, self.machines.others
        head.kill()
        self.keeper.wait()
        return_after(head, 0)
        store = store_of(local_folder(self.place))
        assert store is not None
        is_known = store.entry("config.yaml") is not None
        self.start([*RTK, "--resume", self.place] if is_known else self.command)
        time.sleep(seconds)  # what they still do is nobody's
        for node in others:
            node.kill()
        return self.machines.pool.submit(self.machines.return_all, others)

    def lose_worker(self, draw: random.Random, seconds: float) -> Future[Any]:
        """Kill a worker."""
        processes = [
            process
            for node in (self.machines.head, *self.machines.others)
            for process in below(psutil.Process(node.pid), "RayTrainWorker")
        ]
        if processes:
            draw.choice(processes).kill()
        return self.machines.pool.submit(time.sleep, 0)


LOSSES: dict[str, Callable[[OnNodes, random.Random, float], Future[Any]]] = {
    NODE: OnNodes.lose_node,
    HEAD: OnNodes.lose_head,
    WORKER: OnNodes.lose_worker,
}
SHARES = (0.5, 0.3, 0.2)


@contextmanager
def on_nodes(folder: Path, seed: int) -> Iterator[Disturb]:
    """Runs on object storage, trained on nodes; it takes root."""
    with (
        bridge(),
        storage(SERVER) as address,
        environment({**keys(address), "RTK_CACHE": str(folder / "cache")}),
        nodes(COUNT, of_node(keys(address))) as made,
    ):
        upload_digits(address)
        machines = Machines(made, f"{BUCKET}/runs")
        machines.join()
        yield partial(disturb_on_nodes, machines, folder, seed)


def disturb_on_nodes(machines: Machines, folder: Path, seed: int, number: int) -> tuple[list[Row], Row]:
    """Train a run that loses nodes."""
    setting, name = ON_NODES[number % len(ON_NODES)], f"nodes-{number}"
    wanted, started = wanted_run(machines, folder, setting), time.monotonic()
    program = command(setting, machines.output, name, *DIGITS, *WAITS)
    kills, draw = [], random.Random(f"{seed} nodes {number}")
    with OnNodes(machines, name, program, folder / f"{name}.log") as kept:
        for _ in range(KILLS_PER_RUN):
            kill = one_kill(kept, draw)
            if kill is None:
                break
            kills.append(told(kill))
        code = kept.wait()
    found: Row = {"differing": [], "rows": []}
    if code == 0:
        found = from_elsewhere(kept.place, folder / "cache-elsewhere", wanted)
    about, seconds = {"run": number, "setting": setting}, round(time.monotonic() - started, 1)
    outcome = {"code": code, "kills": len(kills), **found, "seconds": seconds}
    return [{**about, **kill} for kill in kills], {**about, **outcome}


def one_kill(kept: OnNodes, draw: random.Random) -> Row | None:
    """As `faults_kills.one_kill`; what has lost its power has it back when this returns."""
    victim, moment = draw.choices(list(LOSSES), SHARES)[0], draw.choices(MOMENTS, (0.6, 0.25, 0.15))[0]
    delay, away = draw.uniform(0, 4.0 if moment == "any" else 12.0), draw.uniform(0, 10)
    if moment != "start" and not kept.waited_for(kept.trains):
        return None
    if moment == "save":
        kept.waited_for(kept.saves, 20)
    else:
        time.sleep(delay)
    if not kept.is_up():
        return None
    group, saving, killed = ranks_of(kept.run), saves_now(kept), time.monotonic()
    row = {"victim": victim, "moment": moment, "step": step_of(kept.run), "saving": saving}
    returning = LOSSES[victim](kept, draw, away)
    went_on = kept.waited_for(lambda: ranks_of(kept.run) not in (group, ()) and kept.trains())
    seconds = round(time.monotonic() - killed, 1) if went_on else None
    returning.result()
    return {**row, "seconds": seconds}


def saves_now(kept: OnNodes) -> bool:
    """Whether a checkpoint is being written, as far as can be seen."""
    with suppress(OSError, ValueError):
        return kept.saves()
    return False


def wanted_run(machines: Machines, folder: Path, setting: str) -> RunFolder:
    """The run of a setting that nothing has disturbed: of this machine, or streamed, of the nodes.

    A machine of two CPUs has none left to decode on.
    """
    run = reference_folder(folder, setting)
    if "streamed" not in setting:
        with environment({"RTK_CACHE": str(folder / "cache-here")}):
            return reference_run(folder, setting)
    if not is_finished(run):
        program = command(setting, machines.output, run.name, *DIGITS, *WAITS)
        with OnNodes(machines, run.name, program, folder / f"{run.name}.log") as kept:
            if kept.wait() != 0:
                raise SystemExit(f"{run.name}: the undisturbed run failed: {kept.log.name}")
        shutil.rmtree(run.path, ignore_errors=True)
        shutil.copytree(RunFolder.open(kept.place).path, run.path)
    return run
