"""Writing checkpoints from all ranks at once: what `rtk.train.checkpoint` reads, and nothing by halves.

A snapshot is taken while training waits; what then writes it may be another thread (`rtk.train.saver`).
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from rtk import __version__
from rtk.runs.atomic import sync_to_disk, write_json, write_tensors
from rtk.runs.checkpoint_faults import check_whole
from rtk.runs.checkpoints import STATE, drop_unfinished, new_folder, prune, publish, seal
from rtk.runs.file_records import FileRecord
from rtk.runtime.ranks import gather_objects, rank
from rtk.train.checkpoint import FORMAT, read_state
from rtk.train.state import (
    TrainState,
    common_tensors,
    optimizer_counters,
    optimizer_name,
    per_weight_tensors,
    saved_buffers,
)
from rtk.train.zero_shards import frozen_parts


class SaveError(OSError):
    """A checkpoint could not be written, on some rank; those that are there are as they were."""


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds of one rank, in main memory of its own: training may go on meanwhile.

    Attributes:
        shard: of this rank, by `kind|parameter|offset`.
        common: what is the same on all ranks, by `kind|name`; empty but on rank 0.
        content: of `state.json`.
    """

    shard: dict[str, Tensor]
    common: dict[str, Tensor]
    content: dict[str, Any]


def take_snapshot(state: TrainState, progress: dict[str, Any], earlier: Snapshot | None = None) -> Snapshot:
    """Copy what a checkpoint holds of this rank.

    Args:
        state: live objects.
        progress: JSON-able position of the run (step and so on).
        earlier: one that has been written, whose memory is used again; it holds nothing of its own then.
    """
    content = {
        "optimizer": optimizer_name(state),
        "kinds": sorted(per_weight_tensors(state)),
        "scalars": optimizer_counters(state),
        **progress,
    }
    common = common_tensors(state) if rank() == 0 else {}
    memory = earlier.shard if earlier else {}
    shard = {name: _copy(part, memory.get(name)) for name, part in _fragments(state)}
    # Few and small, and a term's may grow; the copies are in the layout that files have.
    own = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in common.items()}
    return Snapshot(shard, own, content)


def _copy(part: Tensor, memory: Tensor | None) -> Tensor:
    """A copy of a fragment (numel,) in fp32, in the memory of an earlier one where there is some."""
    if memory is None or memory.shape != part.shape:
        memory = torch.empty(part.shape, pin_memory=part.is_cuda)
    return memory.copy_(part.detach())


def save_checkpoint(alias: Path, state: TrainState, progress: dict[str, Any]) -> None:
    """Write a checkpoint of live objects; arguments and errors as of `take_snapshot` and `write_snapshot`."""
    write_snapshot(alias, take_snapshot(state, progress))


def write_snapshot(alias: Path, snapshot: Snapshot, group: ProcessGroup | None = None) -> None:
    """Write a checkpoint from all ranks, then let `alias` be its name; called on every rank.

    Args:
        alias: such as `checkpoints/last` (`rtk.runs.checkpoints`).
        snapshot: this rank's.
        group: of all ranks, by which they wait for each other; None: the default one.

    Raises:
        SaveError: on every rank, where a disk is full or fails under any.
    """
    content = snapshot.content
    # By its name: its path may be another one on each node.
    folder = alias.with_name(on_first_rank(partial(_begin, alias, content["step"]), group))
    written = gather_objects(_attempt(partial(_write_rank, folder, snapshot)), group)
    on_first_rank(partial(_finish, alias, folder, written, content), group)


def on_first_rank(action: Callable[[], Any], group: ProcessGroup | None = None) -> Any:
    """What an action on files returns that rank 0 does for all; raises `SaveError` on all where it fails."""
    result, error = gather_objects(_attempt(action) if rank() == 0 else None, group)[0]
    if error is not None:
        raise SaveError(error)
    return result


def save_weights(alias: Path, model: nn.Module, progress: dict[str, Any]) -> None:
    """Write a checkpoint of a model that no optimiser has trained here: weights and buffers alone.

    Args:
        alias: such as `checkpoints/best`.
        model: on the CPU.
        progress: JSON-able position of the run (step and so on).
    """
    folder = new_folder(alias, progress["step"])
    weights = {
        f"weight|{name}|0": value.detach().float().flatten() for name, value in model.named_parameters()
    }
    buffers = {f"model|{name}": value.contiguous() for name, value in saved_buffers(model).items()}
    content = {"optimizer": None, "kinds": ["weight"], "scalars": {}, **progress}
    files = _write_shard(folder, 0, weights) | _write_common(folder, buffers, content)
    publish(alias, folder, files, _about(content))


def adopt_checkpoint(source: Path, alias: Path) -> int:
    """Take over a checkpoint of another run, without its metrics: the run that gets it has not reached them.

    What the run had saved itself is deleted, for it is not on the way to this one.

    Args:
        source: folder of the other's checkpoint.
        alias: of the copy.

    Returns:
        Its step.
    """
    check_whole(source)
    content = {**read_state(source), "metrics": None}
    folder, files = new_folder(alias, content["step"]), {}
    for path in source.glob("*.safetensors"):
        shutil.copyfile(path, folder / path.name)
        files[path.name] = seal(folder / path.name)
    publish(alias, folder, files | _write_state(folder, content), _about(content))
    prune(alias.parent, kept=1)
    return int(content["step"])


def _attempt(action: Callable[[], Any]) -> tuple[Any, str | None]:
    """What an action returns, and what the disk said against it."""
    try:
        return action(), None
    except (OSError, SafetensorError) as error:
        return None, str(error)


def _begin(alias: Path, step: int) -> str:
    return new_folder(alias, step).name


def _write_rank(folder: Path, snapshot: Snapshot) -> dict[str, FileRecord]:
    """Write this rank's part; returns the records of its files."""
    drop_unfinished(folder.parent, but=folder)  # a node that is not rank 0's keeps no manifests
    folder.mkdir(exist_ok=True, parents=True)
    _check_space(folder, sum(tensor.nbytes for tensor in snapshot.shard.values()))
    in_blocks = snapshot.content.get("verify") == "sampled"
    files = _write_shard(folder, rank(), snapshot.shard, in_blocks)
    if rank() == 0:
        files |= _write_common(folder, snapshot.common, snapshot.content)
    sync_to_disk(folder)
    return files


def _check_space(folder: Path, wanted: int) -> None:
    """Say that a disk is full before it is filled."""
    free = shutil.disk_usage(folder).free
    if free < wanted:
        sizes = f"a shard takes {wanted / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
        raise OSError(errno.ENOSPC, f"no space left: {sizes}", str(folder))


def _finish(
    alias: Path,
    folder: Path,
    written: list[tuple[dict[str, FileRecord] | None, str | None]],
    content: dict[str, Any],
) -> None:
    """Publish what all ranks have written, or remove it where one could not."""
    errors = [error for _, error in written if error is not None]
    if errors:
        shutil.rmtree(folder, ignore_errors=True)
        raise OSError(errors[0])
    files = {name: record for found, _ in written for name, record in (found or {}).items()}
    publish(alias, folder, files, _about(content))


def _write_shard(
    folder: Path, number: int, tensors: dict[str, Tensor], in_blocks: bool = False
) -> dict[str, FileRecord]:
    path = folder / f"shard-{number:05d}.safetensors"
    write_tensors(path, tensors)
    return {path.name: seal(path, in_blocks)}


def _write_common(folder: Path, common: dict[str, Tensor], content: dict[str, Any]) -> dict[str, FileRecord]:
    """Write what is the same on all ranks."""
    path = folder / "common.safetensors"
    write_tensors(path, common)
    return {path.name: seal(path)} | _write_state(folder, content)


def _write_state(folder: Path, content: dict[str, Any]) -> dict[str, FileRecord]:
    write_json(folder / STATE, {"format": FORMAT, **content})
    return {STATE: seal(folder / STATE)}


def _about(content: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says beside its files."""
    names = ("step", "world_size", "config", "metrics")
    return {"rtk": __version__} | {key: content[key] for key in names if key in content}


def _fragments(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """The live parts of this rank, by their names in a file; what is replicated, rank 0 writes for all."""
    stage = state.engine.zero_optimization_stage()
    if rank() == 0 or stage == 3:
        for name, offset, part in frozen_parts(state.engine.module):
            yield f"frozen|{name}|{offset}", part
    if rank() != 0 and stage == 0:
        return
    for kind, tensors in per_weight_tensors(state).items():
        for fragment in state.shards.fragments():
            yield f"{kind}|{fragment.name}|{fragment.offset}", fragment.of(tensors)
