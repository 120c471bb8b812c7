"""Checkpoints: shards on disk as safetensors fragments, read back at any ZeRO stage and worker count.

A checkpoint folder holds, for each rank, `shard-RRRRR.safetensors` with its fragments of every
per-weight tensor (`weight`, optimiser moments, `gradient_average`, `average`) and of the `frozen`
parameters, named `kind|parameter|offset`; and `common.safetensors` plus `state.json` with what is the
same on all ranks. Nothing is pickled. A tensor of a parameter is put together from whichever fragments
overlap it, so it does not matter how many ranks wrote it or how ZeRO had cut it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rtk.train.shard_reader import CheckpointError, ShardReader, resolve_checkpoint
from rtk.train.state import (
    TrainState,
    optimizer_counters,
    optimizer_name,
    per_weight_tensors,
    saved_buffers,
)
from rtk.train.zero_shards import Fragment, frozen_parts

FORMAT = 2


# ---------------------------------------------------------------- writing


def save_checkpoint(
    folder: Path, state: TrainState, progress: dict[str, Any], rank: int, barrier: Callable
) -> None:
    """Write a checkpoint from all ranks and put it in place of `folder` at once.

    Args:
        folder: where it shall be; a checkpoint that is there already stays whole until the new one is.
        state: live objects.
        progress: JSON-able position of the run (step and so on).
        rank: this process's rank.
        barrier: waits for all ranks.
    """
    partial = folder.with_name(folder.name + ".partial")
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    barrier()
    save_file(dict(_fragments_to_save(state, rank)), partial / f"shard-{rank:05d}.safetensors")
    if rank == 0:
        save_file(_common_tensors(state), partial / "common.safetensors")
        content = {
            "format": FORMAT,
            "optimizer": optimizer_name(state),
            "kinds": sorted(per_weight_tensors(state)),
            "scalars": optimizer_counters(state),
            **progress,
        }
        (partial / "state.json").write_text(json.dumps(content, indent=1))
    barrier()
    if rank == 0:
        _replace(folder, partial)
    barrier()


def copy_checkpoint(source: Path, target: Path) -> None:
    """Put a copy of a checkpoint in place of `target` at once."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _replace(target, partial)


def _replace(folder: Path, partial: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _fragments_to_save(state: TrainState, rank: int) -> Iterator[tuple[str, Tensor]]:
    # What is replicated, rank 0 writes for all.
    stage = state.engine.zero_optimization_stage()
    if rank == 0 or stage == 3:
        for name, offset, part in frozen_parts(state.engine.module):
            yield f"frozen|{name}|{offset}", part.to("cpu", torch.float32, copy=True)
    if rank != 0 and stage == 0:
        return
    for kind, tensors in per_weight_tensors(state).items():
        for fragment in state.shards.fragments():
            part = _slice(tensors, fragment).detach().to("cpu", torch.float32, copy=True)
            yield f"{kind}|{fragment.name}|{fragment.offset}", part


def _slice(tensors: list[Tensor], fragment: Fragment) -> Tensor:
    return tensors[fragment.shard].reshape(-1)[fragment.start : fragment.start + fragment.numel]


def _common_tensors(state: TrainState) -> dict[str, Tensor]:
    buffers = saved_buffers(state.engine.module)
    tensors = {f"model|{name}": value.detach().cpu() for name, value in buffers.items()}
    if state.average is not None:
        tensors |= {f"average|{name}": buffer.cpu() for name, buffer in state.average.buffers.items()}
    return {name: value.contiguous() for name, value in tensors.items()}


# ---------------------------------------------------------------- reading


def read_state(folder: Path) -> dict[str, Any]:
    """Position and counters of a checkpoint.

    Raises:
        CheckpointError: where there is none, or its format is another.
    """
    folder = resolve_checkpoint(folder)
    content = json.loads((folder / "state.json").read_text())
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: checkpoint format {content.get('format')}, wanted {FORMAT}")
    return content


def forget_metrics(folder: Path) -> int:
    """Take the metrics off a checkpoint, so that a run it is handed to does not count them as its own.

    Returns:
        Its step.
    """
    state = {**read_state(folder), "metrics": None}
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    step: int = state["step"]
    return step


def load_checkpoint(folder: Path, state: TrainState) -> dict[str, Any]:
    """Restore live objects from a checkpoint, on every rank; returns what `read_state` does.

    Raises:
        CheckpointError: naming what the checkpoint lacks, or what it has and the run has no place for.
    """
    content, reader = read_state(folder), ShardReader(resolve_checkpoint(folder))
    _check_fits(folder, state, content, reader)
    _restore_kind(state.shards.weights(), "weight", state, reader)
    _restore_moments(state, content, reader)
    if state.sharpness is not None and "gradient_average" in content["kinds"]:
        state.sharpness.gradient_average = [torch.zeros_like(w) for w in state.shards.weights()]
        _restore_kind(state.sharpness.gradient_average, "gradient_average", state, reader)
    for name, offset, part in frozen_parts(state.engine.module):
        part.copy_(reader.read("frozen", name, offset, part.numel()))
    _restore_buffers(reader.folder, state)
    if state.average is not None:
        _restore_kind(state.average.weights, "average", state, reader)
        state.average.updates = content["step"]
    state.shards.publish()
    return content


def _check_fits(folder: Path, state: TrainState, content: dict[str, Any], reader: ShardReader) -> None:
    """Refuse by name what cannot be carried: nothing is dropped in silence."""
    sizes = {name: _numel(p) for name, p in state.engine.module.named_parameters()}
    saved = reader.sizes("weight") | reader.sizes("frozen")
    wrong = [name for name in {*sizes, *saved} if sizes.get(name) != saved.get(name)]
    if wrong:
        name = sorted(wrong)[0]
        raise CheckpointError(
            f"{folder}: parameter {name!r} has {saved.get(name, 'no')} elements in the checkpoint and "
            f"{sizes.get(name, 'none')} in the model ({len(wrong)} parameters differ)"
        )
    frozen = {name for name, p in state.engine.module.named_parameters() if not p.requires_grad}
    changed = sorted(frozen ^ set(reader.sizes("frozen")))
    if changed:
        now = "frozen" if changed[0] in frozen else "trained"
        raise CheckpointError(
            f"{folder}: parameter {changed[0]!r} is {now} now, and was not in the saved run"
        )
    if content["optimizer"] != optimizer_name(state):
        raise CheckpointError(
            f"{folder}: holds the state of {content['optimizer']}, but the run's optimiser is "
            f"{optimizer_name(state)}"
        )
    if ("average" in content["kinds"]) != (state.average is not None):
        raise CheckpointError(
            f"{folder}: averaging was {'on' if state.average is None else 'off'} in the saved run"
        )
    if "gradient_average" in content["kinds"] and state.sharpness is None:
        raise CheckpointError(f"{folder}: holds an F-SAM gradient average, but sharpness.variant is none")


def _numel(parameter: Any) -> int:
    return int(parameter.ds_numel) if hasattr(parameter, "ds_numel") else parameter.numel()


def _restore_kind(tensors: list[Tensor], kind: str, state: TrainState, reader: ShardReader) -> None:
    for fragment in state.shards.fragments():
        target = _slice(tensors, fragment)
        target.copy_(reader.read(kind, fragment.name, fragment.offset, fragment.numel))


def _restore_moments(state: TrainState, content: dict[str, Any], reader: ShardReader) -> None:
    own = {"weight", "gradient_average", "average"}
    moments = state.shards.base_optimizer().state
    keys = state.shards.optimizer_keys()
    for kind in [kind for kind in content["kinds"] if kind not in own]:
        tensors = [torch.zeros_like(key.data) for key in keys]
        _restore_kind(tensors, kind, state, reader)
        for key, tensor in zip(keys, tensors, strict=True):
            moments[key][kind] = tensor
    for key in keys:
        for name, value in content["scalars"].items():
            moments[key][name] = torch.tensor(value)


def _restore_buffers(folder: Path, state: TrainState) -> None:
    tensors = load_file(folder / "common.safetensors")
    for name, value in saved_buffers(state.engine.module).items():
        value.copy_(tensors[f"model|{name}"])
    if state.average is not None:
        for name, buffer in state.average.buffers.items():
            buffer.copy_(tensors[f"average|{name}"])
