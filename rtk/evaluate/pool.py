"""A pool of actors with the model of a run, and what they make of the blocks of data sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rtk.config.schema import EvaluateConfig
from rtk.data.decode.pipeline import Selection, decode_block, encoded_blocks
from rtk.evaluate.columns import as_matrix
from rtk.runs.folder import RunFolder
from rtk.runtime.console import Progress
from rtk.runtime.environment import available_cpus

# Scores are fitted on it, but never computed for it.
FIT_SET = "train"


@dataclass
class Counted:
    """Counts images over several passes for one progress bar."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, images: int) -> None:
        """So many more are done."""
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Pool:
    """How actors with the model of a run are set up."""

    run: RunFolder
    checkpoint: str
    settings: EvaluateConfig

    def run_blocks(
        self,
        selections: Mapping[str, Selection],
        actor: Callable[..., Any],
        *args: Any,
        prepare: Callable[[pa.Table], Any] = decode_block,
    ) -> Iterator[pa.Table]:
        """What actors make of the decoded blocks of data sets, in any order.

        Args:
            selections: data sets by name.
            actor: class of actor, called with what `ModelActor` takes, then `args`.
            args: see `actor`.
            prepare: what makes a decoded block, or several, of a block of encoded images.

        Raises:
            Exception: what an actor raised, such as a `BadImageError`.
        """
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        size = self.settings.actors or max(1, gpus)
        threads = max(1, available_cpus() // size)
        base = (str(self.run.path), self.checkpoint, threads, self.run.config().train.precision)
        batch = self.settings.batch_size
        blocks = [
            block
            for name, selection in selections.items()
            for block in encoded_blocks(name, selection, batch)
        ]
        results = (
            ray.data.from_arrow(blocks)
            .map_batches(prepare, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
            .map_batches(
                actor,
                fn_constructor_args=(*base, *args),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=size),
                num_gpus=1 if gpus else 0,
            )
        )
        results.context.raise_original_map_exception = True
        try:
            yield from results.iter_batches(batch_size=None, batch_format="pyarrow")
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def collect(
    blocks: Iterator[pa.Table], selections: Mapping[str, Selection], done: Counted | None = None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Data sets, each as soon as it is complete: its name and its columns, rows where their numbers say."""
    outputs: dict[str, dict[str, np.ndarray]] = {name: {} for name in selections}
    left = {name: len(selection) for name, selection in selections.items()}
    for block in blocks:
        name, rows = block["set"][0].as_py(), block["row"].to_numpy()
        for column in block.column_names[2:]:
            values = block[column]
            found = as_matrix(values, len(rows)) if pa.types.is_nested(values.type) else values.to_numpy()
            shape = (len(selections[name]), *found.shape[1:])
            outputs[name].setdefault(column, np.empty(shape, found.dtype))[rows] = found
        left[name] -= len(rows)
        if done is not None:
            done.add(len(rows))
        if left[name] == 0:
            yield name, outputs.pop(name)
