"""Blocks of data sets of any size, read and decoded by Ray tasks as they are asked for.

Whoever asks holds references only: tasks read the files and others decode what these have read, each no more
than a few blocks ahead. A few images are decoded in this process instead, before others would have started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rtk.data.decode.faults import Fault
from rtk.data.decode.pipeline import (
    ROWS_PER_BLOCK,
    FilePart,
    Selection,
    decode_block,
    encoded_blocks,
    file_parts,
    is_little,
)
from rtk.runtime.console import Progress
from rtk.runtime.ray_session import start_ray

READERS = 4  # files that are read at a time: storage in a cloud takes its time for each
AHEAD = 2  # blocks that a task has ready before they are asked for

# What makes a decoded block, or several, of a block of encoded images.
Prepare = Callable[[pa.Table], pa.Table | Iterator[pa.Table]]


def decoded_blocks(
    selections: Mapping[str, Selection], size: int, prepare: Prepare = decode_block
) -> Iterator[Any]:
    """References to decoded blocks of data sets, as they become ready, in any order.

    A block is of at most `size` consecutive images of one file, whatever the size of the cluster.

    Args:
        selections: data sets by name.
        size: images of a block.
        prepare: what is done with a block of encoded images.
    """
    ray = start_ray()
    ahead = {"num_returns": "streaming", "_generator_backpressure_num_objects": AHEAD}
    decode = ray.remote(num_cpus=1, scheduling_strategy="SPREAD", **ahead)(_decode)
    shared = ray.put(prepare)
    parts = (part for name, selection in selections.items() for part in file_parts(name, selection))
    read = (
        ray.remote(num_cpus=0, scheduling_strategy=_where(part.selection), **ahead)(FilePart.blocks).remote(
            part, size
        )
        for part in parts
    )
    encoded = _as_ready(read, READERS)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
    yield from _as_ready((decode.remote(shared, block) for block in encoded), cpus)


def blocks_here(
    selections: Mapping[str, Selection], size: int, prepare: Prepare = decode_block
) -> Iterator[pa.Table]:
    """The same blocks, decoded one after the other in this process."""
    for name, selection in selections.items():
        for block in encoded_blocks(name, selection, size):
            yield from _decode(prepare, block)


def find_faults(selections: Mapping[str, Selection], progress: Progress | None = None) -> Iterator[Fault]:
    """Decode data sets for nothing but those of their images that cannot be, which come in any order.

    Args:
        selections: data sets by name.
        progress: called with the number of images done and their total.
    """
    done, total = 0, sum(len(selection) for selection in selections.values())
    find = blocks_here if is_little(selections) else _gathered_blocks
    for block in find(selections, ROWS_PER_BLOCK, _without_pixels):
        bad = block.filter(pc.is_valid(block["reason"]))
        yield from (Fault(**row) for row in bad.to_pylist())
        done += len(block)
        if progress is not None:
            progress(done, total)


def _gathered_blocks(selections: Mapping[str, Selection], size: int, prepare: Prepare) -> Iterator[pa.Table]:
    import ray

    yield from map(ray.get, decoded_blocks(selections, size, prepare))


def _without_pixels(block: pa.Table) -> pa.Table:
    return decode_block(block).drop_columns(["pixels", "size"])


def _decode(prepare: Prepare, block: pa.Table) -> Iterator[pa.Table]:
    made = prepare(block)
    # Not `yield from`: Ray sends to generators, which a list cannot take.
    for table in [made] if isinstance(made, pa.Table) else made:  # noqa: UP028
        yield table


def _where(selection: Selection) -> Any:
    """Where to read: anywhere what has a URI, else here, where the path was found."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if "://" in selection.dataset.path:
        return "SPREAD"
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _as_ready(tasks: Iterable[Any], at_once: int) -> Iterator[Any]:
    """References that generating tasks yield, as they become ready; at most `at_once` of these run."""
    import ray

    waiting, running = iter(tasks), list[Any]()
    while True:
        while len(running) < at_once and (task := next(waiting, None)) is not None:
            running.append(task)
        if not running:
            return
        (ready, *_), _ = ray.wait(running, num_returns=1, fetch_local=False)
        running.remove(ready)
        reference = next(ready, None)
        if reference is not None:
            running.append(ready)  # behind the others, which have their turn
            yield reference
