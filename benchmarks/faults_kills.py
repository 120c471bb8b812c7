"""Kills of `faults.py` on one machine: of runs on its disk, and of runs on object storage.

Of the latter the machine itself may be lost too: whoever goes on then has the storage alone.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
from cluster_storage import BUCKET, keys, make_bucket, storage
from faults_ends import differences, from_elsewhere
from faults_runs import (
    PATIENCE,
    RTK,
    SETTINGS,
    Disturb,
    Kept,
    Row,
    below,
    command,
    end_tree,
    environment,
    is_saving,
    ranks_of,
    reference_run,
    step_of,
    told,
    trains,
)

from rtk.runs.folder import RunFolder
from rtk.runs.working_copy import cache_folder, local_folder, store_of

VICTIMS = ("worker", "Ray's daemon", "driver")
MACHINE = "machine"
MOMENTS = ("any", "save", "start")
KILLS_PER_RUN = 4
OF_ONE_MACHINE = list(SETTINGS)[:6]


@contextmanager
def on_disk(folder: Path, seed: int) -> Iterator[Disturb]:
    """Runs in a folder of this machine."""

    def disturb(number: int) -> tuple[list[Row], Row]:
        setting = OF_ONE_MACHINE[number % len(OF_ONE_MACHINE)]
        wanted, run = reference_run(folder, setting), RunFolder(folder / f"disturbed-{number}")
        shutil.rmtree(run.path, ignore_errors=True)  # of a campaign that was stopped here
        kept = Kept(run, command(setting, folder, run.name), folder / f"{run.name}.log")
        kills, outcome = disturbed(kept, VICTIMS, random.Random(f"{seed} {number}"))
        found = differences(run, wanted) if outcome["code"] == 0 else {}
        if found and not any(found.values()):
            shutil.rmtree(run.path)
        about = {"run": number, "setting": setting}
        return [{**about, **kill} for kill in kills], {**about, **outcome, **found}

    yield disturb


@contextmanager
def on_storage(folder: Path, seed: int) -> Iterator[Disturb]:
    """Runs on object storage, by a machine with nothing but a working copy."""
    with storage("127.0.0.1") as address:
        make_bucket(address)
        with environment({**keys(address), "RTK_CACHE": str(folder / "cache")}):
            yield partial(disturb_on_storage, folder, seed)


def disturb_on_storage(folder: Path, seed: int, number: int) -> tuple[list[Row], Row]:
    """Train a run on object storage that is killed again and again."""
    setting, name = OF_ONE_MACHINE[number % len(OF_ONE_MACHINE)], f"storage-{number}"
    wanted, output = reference_run(folder, setting), f"{BUCKET}/runs"
    run = RunFolder(local_folder(output) / name)
    shutil.rmtree(run.path, ignore_errors=True)
    kept = OnStorage(run, command(setting, output, name), folder / f"{name}.log")
    draw = random.Random(f"{seed} storage {number}")
    kills, outcome = disturbed(kept, (*VICTIMS, MACHINE), draw)
    found = {}
    if outcome["code"] == 0:
        found = from_elsewhere(run.place, folder / "cache-elsewhere", wanted)
    about = {"run": number, "setting": setting}
    return [{**about, **kill} for kill in kills], {**about, **outcome, **found}


class OnStorage(Kept):
    """A run on object storage; see `Kept`."""

    look_every = 0.01  # the server is a thread of this process

    def lose_machine(self) -> None:
        """End all that works on the run, forget all that was here of it, and go on as another machine."""
        end_tree(self.keeper.pid)
        store = store_of(self.run.path)
        assert store is not None
        is_known = store.entry("config.yaml") is not None
        shutil.rmtree(cache_folder() / "s3", ignore_errors=True)
        self.start([*RTK, "--resume", self.run.place] if is_known else self.command)


def disturbed(kept: Kept, victims: Sequence[str], draw: random.Random) -> tuple[list[Row], Row]:
    """Kill a run again and again; its kills, and how it has ended."""
    kills, started = [], time.monotonic()
    with kept:
        for _ in range(KILLS_PER_RUN):
            kill = one_kill(kept, victims, draw)
            if kill is None:
                break
            kills.append(told(kill))
        code = kept.wait()
    seconds = round(time.monotonic() - started, 1)
    return kills, {"code": code, "kills": len(kills), "differing": [], "rows": [], "seconds": seconds}


def one_kill(kept: Kept, victims: Sequence[str], draw: random.Random) -> Row | None:
    """Kill something at a drawn moment; None where the run has ended before.

    Returns:
        `victim`, `moment`, `step` at which, whether `saving`, and `seconds` to the next step (None: never).
    """
    run = kept.run
    victim, moment = draw.choice(victims), draw.choices(MOMENTS, (0.6, 0.25, 0.15))[0]
    delay = draw.uniform(0, 4.0 if moment == "any" else 12.0)
    if moment != "start" and not kept.waited_for(lambda: trains(run), PATIENCE):
        return None
    target = find(victim, kept)
    if moment == "save":
        kept.waited_for(lambda: is_saving(run), 20)
    else:
        time.sleep(delay)
        target = find(victim, kept)
    if target is None or not kept.is_up():
        return None if not kept.is_up() else one_kill(kept, victims, draw)
    saving, step, group = is_saving(run), step_of(run), ranks_of(run)
    killed = time.monotonic()
    if isinstance(kept, OnStorage) and victim == MACHINE:
        kept.lose_machine()
    else:
        with suppress(psutil.NoSuchProcess):
            target.kill()
    went_on = kept.waited_for(lambda: ranks_of(run) not in (group, ()) and trains(run))
    seconds = round(time.monotonic() - killed, 1) if went_on else None
    return {"victim": victim, "moment": moment, "step": step, "saving": saving, "seconds": seconds}


def find(victim: str, kept: Kept) -> psutil.Process | None:
    """A process of a kind below the one that keeps the run alive; the machine is that one and all below."""
    with suppress(psutil.Error):
        keeper = psutil.Process(kept.keeper.pid)
        if victim == MACHINE:
            return keeper
        if victim == "driver":
            return next(iter(keeper.children()), None)
        word = "RayTrainWorker" if victim == "worker" else "/raylet/raylet"
        return next(iter(below(keeper, word)), None)
    return None
