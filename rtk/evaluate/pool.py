"""A pool of actors with the model of a run, and what they make of the blocks of data sets."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rtk.config.schema import EvaluateConfig
from rtk.data.decode.blocks import Prepare, blocks_here, decoded_blocks
from rtk.data.decode.pipeline import Selection, decode_block, is_little
from rtk.evaluate.actors import SECONDS, ModelActor, Work
from rtk.evaluate.columns import as_matrix
from rtk.runs.folder import RunFolder
from rtk.runtime.console import Progress
from rtk.runtime.environment import available_cpus
from rtk.runtime.large_arrays import empty_array
from rtk.runtime.ray_session import is_on_cluster, start_ray
from rtk.tracking.uploading import check_reachable

# Scores are fitted on it, but never computed for it.
FIT_SET = "train"
# Blocks that an actor has been given at a time: the next is there when it is done with one.
QUEUED = 2
# Work of making corrupted images of one, as a multiple of decoding it.
PREPARING = 64


@dataclass
class Counted:
    """Counts images over several passes for one progress bar, and what each of their columns took.

    Attributes:
        progress: called with the number of images done and their total.
        total: number of images.
        seconds: of the actors, and images, by column.
    """

    progress: Progress | None
    total: int
    done: int = 0
    seconds: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def add(self, images: int, block: pa.Table | None = None) -> None:
        """So many more are done, those of `block`."""
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)
        taken = json.loads((block.schema.metadata or {}).get(SECONDS, b"{}")) if block is not None else {}
        self.seconds.update(taken)
        self.images.update(dict.fromkeys(taken, images))

    def throughput(self) -> dict[str, float]:
        """Images a second of one actor, by column."""
        return {name: self.images[name] / seconds for name, seconds in self.seconds.items() if seconds > 0}


class Pool:
    """Actors with the model of a run: started by the first pass, kept for those that follow, ended on exit.

    Starting one takes longer than many a pass: it imports torch and reads the weights. So this process does
    by itself what is little, on one machine, unless `evaluate.actors` asks for some.

    Args:
        run: a trained run.
        checkpoint: `best` or `last`.
        settings: size of the pool and of a batch; None: the run's own.

    Attributes:
        actors: those that have been started.
    """

    def __init__(self, run: RunFolder, checkpoint: str = "best", settings: EvaluateConfig | None = None):
        self.run, self.checkpoint = run, checkpoint
        self.settings = settings or run.config().evaluate
        self.actors: list[Any] = []
        self._passes = 0
        self._here = ModelActor(run.place, checkpoint, None, run.config().train.precision)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        while self.actors:
            import ray

            ray.kill(self.actors.pop())

    def run_blocks(
        self,
        selections: Mapping[str, Selection],
        work: Work,
        prepare: Prepare = decode_block,
    ) -> Iterator[pa.Table]:
        """What the actors make of the decoded blocks of data sets, in any order.

        A lost actor is started again, and what it was at is done again.

        Args:
            selections: data sets by name.
            work: what is made of a block.
            prepare: what makes a decoded block, or several, of a block of encoded images.

        Raises:
            Exception: what an actor raised, such as a `BadImageError`.
        """
        self._passes += 1
        if self._does_by_itself(selections, 1 if prepare is decode_block else PREPARING):
            for block in blocks_here(selections, self.settings.batch_size, prepare):
                yield self._here.process(self._passes, work, block)
            return
        ray = start_ray()
        self.actors = self.actors or self._start()
        shared = ray.put(work)
        free = deque(self.actors * QUEUED)
        busy: dict[Any, Any] = {}
        for block in decoded_blocks(selections, self.settings.batch_size, prepare):
            if not free:
                yield _finished(busy, free)
            actor = free.popleft()
            busy[actor.process.remote(self._passes, shared, block)] = actor
        while busy:
            yield _finished(busy, free)

    def _does_by_itself(self, selections: Mapping[str, Selection], work: float) -> bool:
        wanted = bool(self.actors or self.settings.actors or is_on_cluster())
        return not wanted and torch.cuda.device_count() < 2 and is_little(selections, work)

    def _start(self) -> list[Any]:
        """The actors; they hold no CPU, or decoding would wait for ever where they have taken all."""
        import ray

        check_reachable(self.run.path)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        wanted = self.settings.actors or max(1, gpus)
        size = min(wanted, gpus) if gpus else wanted
        threads = max(1, available_cpus() // size)
        actor = ray.remote(ModelActor).options(
            num_cpus=0,
            num_gpus=1 if gpus else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )
        arguments = (str(self.run.path), self.checkpoint, threads, self.run.config().train.precision)
        return [actor.remote(*arguments) for _ in range(size)]


def _finished(busy: dict[Any, Any], free: deque[Any]) -> pa.Table:
    """The next result that is ready; its actor is free for another block."""
    import ray

    (ready, *_), _ = ray.wait(list(busy), num_returns=1)
    free.append(busy.pop(ready))
    try:
        result: pa.Table = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    return result


def collect(
    blocks: Iterator[pa.Table], selections: Mapping[str, Selection], folder: Path, done: Counted | None = None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Data sets, each as soon as it is complete: its name and its columns, rows where their numbers say.

    Large columns lie in files of `folder` until then.
    """
    outputs: dict[str, dict[str, np.ndarray]] = {name: {} for name in selections}
    left = {name: len(selection) for name, selection in selections.items()}
    for block in blocks:
        name, rows = block["set"][0].as_py(), block["row"].to_numpy()
        for column in block.column_names[2:]:
            values = block[column]
            found = as_matrix(values, len(rows)) if pa.types.is_nested(values.type) else values.to_numpy()
            shape = (len(selections[name]), *found.shape[1:])
            if column not in outputs[name]:
                outputs[name][column] = empty_array(shape, found.dtype, folder)
            outputs[name][column][rows] = found
        left[name] -= len(rows)
        if done is not None:
            done.add(len(rows), block)
        if left[name] == 0:
            yield name, outputs.pop(name)
