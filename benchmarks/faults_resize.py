"""Kills of `faults.py` while the number of workers changes.

A cluster of two nodes of one CPU each, Ray's daemons on this machine, has a run that may have one worker or
two. It loses a node, and a moment later a worker or the driver, while it goes on with what is left; gets a
node back, and loses a worker, the driver or that node while it saves, to go on with two.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from faults_ends import nearly_differences
from faults_runs import (
    SETTINGS,
    Disturb,
    Kept,
    Row,
    below,
    command,
    environment,
    is_saving,
    ranks_of,
    reference_run,
    step_of,
    told,
    trains,
)

from rtk.runs.folder import RunFolder

RESIZED = [name for name in SETTINGS if "ViT" in name]
ELASTIC = ["train.workers={min: 1, max: 2}", "train.wait_for_workers=5s"]
NODE = "node"
CYCLES = 2
DELAY = 12.0  # seconds, at most, from a change to what is killed while the run follows it
MEMORY = {"object_store_memory": 2**28}
ALONE = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_worker_niceness": "0"}


@contextmanager
def resizing(folder: Path, seed: int) -> Iterator[Disturb]:
    """Runs in a folder of this machine, each on a cluster of its own."""
    with environment(ALONE):
        yield partial(disturb_while_resizing, folder, seed)


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster; drivers join it while the body runs."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, **MEMORY}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        add_node(cluster)
        with environment({"RAY_ADDRESS": cluster.address}):
            yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """Give a cluster a second node."""
    return cluster.add_node(num_cpus=1, **MEMORY)


def disturb_while_resizing(folder: Path, seed: int, number: int) -> tuple[list[Row], Row]:
    """Train a run that is killed while its group of workers changes."""
    setting, started = RESIZED[number % len(RESIZED)], time.monotonic()
    wanted, run = reference_run(folder, setting), RunFolder(folder / f"resize-{number}")
    shutil.rmtree(run.path, ignore_errors=True)
    program, draw = command(setting, folder, run.name, *ELASTIC), random.Random(f"{seed} resize {number}")
    with two_nodes() as cluster, Kept(run, program, folder / f"{run.name}.log") as kept:
        kills = [told(kill) for kill in kills_while_resizing(kept, cluster, draw)]
        code = kept.wait()
    found = nearly_differences(run, wanted) if code == 0 else {"differing": [], "rows": []}
    about, seconds = {"run": number, "setting": setting}, round(time.monotonic() - started, 1)
    sizes = [text.split()[2] for text in run.read_notices() if text.startswith("training on ")]
    outcome = {"code": code, "kills": len(kills), "workers": "".join(sizes), **found, "seconds": seconds}
    if code == 0 and not found["differing"] and not found["rows"]:
        shutil.rmtree(run.path)
    return [{**about, **kill} for kill in kills], {**about, **outcome}


def kills_while_resizing(kept: Kept, cluster: Any, draw: random.Random) -> Iterator[Row]:
    """Take a node away and give it back, and kill something each time; ends with the run."""
    for _ in range(CYCLES):
        if not kept.waited_for(lambda: trains(kept.run, 2)):
            return
        yield from fewer(kept, cluster, draw)
        if not kept.waited_for(lambda: trains(kept.run, 1)):
            return
        yield from more(kept, cluster, draw)


def fewer(kept: Kept, cluster: Any, draw: random.Random) -> Iterator[Row]:
    """Take a node away, and kill something while the run goes on with one worker; or nothing."""
    second, delay = draw.choice(("worker", "driver", None)), draw.uniform(0, DELAY)
    time.sleep(draw.uniform(0, 2))
    if not kept.is_up():
        return
    first = Begun(kept, NODE, "fewer")
    lose_node(cluster)
    if second is None:
        yield ended(kept, first)
        return
    yield {**first.row, "seconds": None, "then": second}
    time.sleep(delay)
    yield from kill_process(kept, second, "fewer")


def more(kept: Kept, cluster: Any, draw: random.Random) -> Iterator[Row]:
    """Give a node back, and kill something while the run goes on with two workers."""
    victim, moment = draw.choice(("worker", "driver", NODE)), draw.choice(("save", "more"))
    add_node(cluster)
    if moment == "save":  # which is asked for, so that nothing is done twice
        kept.waited_for(kept.run.save_requested, 30)
    time.sleep(draw.uniform(0, 1.5 if moment == "save" else DELAY))
    if victim != NODE:
        yield from kill_process(kept, victim, moment)
    elif kept.is_up():
        first = Begun(kept, NODE, moment)
        lose_node(cluster)
        yield ended(kept, first)
        add_node(cluster)


def kill_process(kept: Kept, victim: str, moment: str) -> Iterator[Row]:
    """Kill a worker or the driver, as soon as there is one."""
    if not kept.waited_for(lambda: find(victim, kept) is not None):
        return
    target, first = find(victim, kept), Begun(kept, victim, moment)
    if target is not None:
        with suppress(psutil.NoSuchProcess):
            target.kill()
        yield ended(kept, first)


def lose_node(cluster: Any) -> None:
    """Kill the daemon of the second node; its workers end with it."""
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)


class Begun:
    """A kill, as things were just before it."""

    def __init__(self, kept: Kept, victim: str, moment: str) -> None:
        self.group, self.step, self.at = ranks_of(kept.run), step_of(kept.run), time.monotonic()
        self.row = {"victim": victim, "moment": moment, "step": self.step, "saving": is_saving(kept.run)}


def ended(kept: Kept, first: Begun) -> Row:
    """Wait until a new group has told of a step, or the old one of a further one: it may not be concerned."""

    def goes_on() -> bool:
        is_new = ranks_of(kept.run) != first.group
        untouched = first.row["victim"] == NODE and len(first.group) == 1 and step_of(kept.run) > first.step
        return (is_new or untouched) and trains(kept.run, None)

    went_on = kept.waited_for(goes_on)
    return {**first.row, "seconds": round(time.monotonic() - first.at, 1) if went_on else None}


def find(victim: str, kept: Kept) -> psutil.Process | None:
    """A process of a kind: the driver, or a worker of the cluster's."""
    with suppress(psutil.Error):
        if victim == "driver":
            return next(iter(psutil.Process(kept.keeper.pid).children()), None)
        return next(iter(below(psutil.Process(os.getpid()), "RayTrainWorker")), None)
    return None
