"""Checkpoints: shards as safetensors fragments, read back at any ZeRO stage and worker count.

A checkpoint folder holds, for each rank, `shard-RRRRR.safetensors` with its fragments of every
per-weight tensor (`weight`, optimiser moments, and what the methods keep, such as `average`) and of the
`frozen` parameters, named `kind|parameter|offset`; and `common.safetensors` plus `state.json` with what is
the same on all ranks: buffers, and what the terms of the loss keep. Nothing is pickled. A tensor of a
parameter is put together from whichever fragments overlap it, so it does not matter how many ranks wrote it
or how ZeRO had cut it. `rtk.train.saving` writes them; `rtk.runs.checkpoints` has where the folders lie, and
whether they are whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rtk.optim.methods import METHODS
from rtk.runs.checkpoint_faults import have_whole
from rtk.runs.checkpoints import STATE, CheckpointError, fetch_state, resolve_checkpoint
from rtk.runs.json_files import SHAPES, first_fault
from rtk.train.shard_reader import ShardReader, check_finite
from rtk.train.state import TrainState, common_tensors, optimizer_name
from rtk.train.zero_shards import frozen_parts, full_numel

FORMAT = 2
MOMENTS = {"momentum_buffer", "exp_avg", "exp_avg_sq"}  # kinds of the base optimisers


def read_state(folder: Path) -> dict[str, Any]:
    """Position and counters of a checkpoint.

    Raises:
        CheckpointError: where there is no checkpoint, or one of another format.
    """
    file = fetch_state(resolve_checkpoint(folder))
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = content.get("format")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: not readable ({error})") from error
    if found != FORMAT:
        raise CheckpointError(f"{file.parent}: checkpoint format {str(found)[:60]}, wanted {FORMAT}")
    fault = first_fault(content, SHAPES[STATE])
    if fault is not None or "step" not in content:
        raise CheckpointError(f"{file}: damaged: {fault or 'has no step'}")
    return content


def class_count(folder: Path) -> int:
    """Number of classes of a checkpoint's model.

    Raises:
        CheckpointError: as `read_state`, or the checkpoint does not say.
    """
    count: int | None = read_state(folder).get("num_classes")
    if count is None:
        raise CheckpointError(f"{folder}: damaged: {STATE} has no number of classes")
    return count


def load_checkpoint(folder: Path, state: TrainState) -> dict[str, Any]:
    """Restore live objects from a checkpoint, on every rank; returns what `read_state` does.

    Raises:
        CheckpointError: naming what the checkpoint lacks, or what it has and the run has no place for.
    """
    have_whole(resolve_checkpoint(folder))  # `mend` has compared contents
    content, reader = read_state(folder), ShardReader(resolve_checkpoint(folder))
    _check_fits(folder, state, content, reader)
    _restore_kind(state.shards.weights(), "weight", state, reader)
    _restore_moments(state, content, reader)
    for method in state.methods.values():
        method.resume(content["kinds"], content["step"])
        for kind, tensors in method.tensors().items():
            _restore_kind(tensors, kind, state, reader)
    for name, offset, part in frozen_parts(state.engine.module):
        part.copy_(reader.read("frozen", name, offset, part.numel()))
    _restore_common(reader.folder, state)
    state.shards.publish()
    return content


def _check_fits(folder: Path, state: TrainState, content: dict[str, Any], reader: ShardReader) -> None:
    """Refuse by name what cannot be carried: nothing is dropped silently."""
    sizes = {name: full_numel(p) for name, p in state.engine.module.named_parameters()}
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
    _check_kinds(folder, state, set(content["kinds"]))


def _check_kinds(folder: Path, state: TrainState, saved: set[str]) -> None:
    """Refuse what a method has kept or needs, where it was off or on in the saved run."""
    for name, row in METHODS.items():
        for kind, words in row.kinds.items():
            if kind in saved and name not in state.methods:
                raise CheckpointError(f"{folder}: holds {words}, but {row.off}")
            if kind not in saved and name in state.methods and kind in state.methods[name].tensors():
                raise CheckpointError(f"{folder}: holds no {words}, because {row.off} there")
    known = {"weight", *MOMENTS, *(kind for row in METHODS.values() for kind in row.kinds)}
    for kind in sorted(saved - known):
        raise CheckpointError(f"{folder}: holds {kind!r} of every weight, which no method here keeps")


def _restore_kind(tensors: list[Tensor], kind: str, state: TrainState, reader: ShardReader) -> None:
    for fragment in state.shards.fragments():
        target = fragment.of(tensors)
        target.copy_(reader.read(kind, fragment.name, fragment.offset, fragment.numel))
        check_finite(reader.folder, kind, fragment.name, target)


def _restore_moments(state: TrainState, content: dict[str, Any], reader: ShardReader) -> None:
    moments = state.shards.base_optimizer().state
    keys = state.shards.owners()
    for kind in sorted(MOMENTS.intersection(content["kinds"])):
        tensors = [torch.zeros_like(key.data) for key in keys]
        _restore_kind(tensors, kind, state, reader)
        for key, tensor in zip(keys, tensors, strict=True):
            moments[key][kind] = tensor
    for key in keys:
        for name, value in content["scalars"].items():
            moments[key][name] = torch.tensor(value)


def _restore_common(folder: Path, state: TrainState) -> None:
    saved = load_file(folder / "common.safetensors")
    for name, live in common_tensors(state).items():
        if name not in saved and name.startswith("term|"):
            continue  # a term that population-based training has just switched on starts anew
        if name not in saved or saved[name].shape != live.shape:
            got = tuple(saved[name].shape) if name in saved else "missing"
            raise CheckpointError(f"{folder}: {name} is {got} in the checkpoint, wanted {tuple(live.shape)}")
        live.copy_(saved[name])
