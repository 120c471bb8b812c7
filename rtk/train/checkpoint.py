"""Checkpoints: shards on disk as safetensors fragments, read back at any ZeRO stage and worker count.

A checkpoint folder holds, for each rank, `shard-RRRRR.safetensors` with its fragments of every
per-weight tensor (`weight`, optimiser moments, and what the methods keep, such as `average`) and of the
`frozen` parameters, named `kind|parameter|offset`; and `common.safetensors` plus `state.json` with what is
the same on all ranks: buffers, and what the terms of the loss keep. Nothing is pickled. A tensor of a
parameter is put together from whichever fragments overlap it, so it does not matter how many ranks wrote it
or how ZeRO had cut it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rtk.optim.methods import METHODS
from rtk.runs.atomic import write_tensors
from rtk.train.shard_reader import CheckpointError, ShardReader, resolve_checkpoint
from rtk.train.state import (
    TrainState,
    common_tensors,
    optimizer_counters,
    optimizer_name,
    per_weight_tensors,
    saved_buffers,
)
from rtk.train.zero_shards import Fragment, frozen_parts, full_numel

FORMAT = 2
MOMENTS = {"momentum_buffer", "exp_avg", "exp_avg_sq"}  # kinds of the base optimisers


# ---------------------------------------------------------------- writing


def save_checkpoint(
    folder: Path, state: TrainState, progress: dict[str, Any], rank: int, barrier: Callable
) -> None:
    """Write a checkpoint from all ranks and put it in place of `folder` at once.

    Args:
        folder: where to put it; a checkpoint that is there already stays whole until the new one is.
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
    write_tensors(partial / f"shard-{rank:05d}.safetensors", dict(_fragments_to_save(state, rank)))
    if rank == 0:
        common = {name: tensor.detach().cpu().contiguous() for name, tensor in common_tensors(state).items()}
        content = {
            "optimizer": optimizer_name(state),
            "kinds": sorted(per_weight_tensors(state)),
            "scalars": optimizer_counters(state),
            **progress,
        }
        _describe(partial, common, content)
    barrier()
    if rank == 0:
        _replace(folder, partial)
    barrier()


def save_weights(folder: Path, model: nn.Module, progress: dict[str, Any]) -> None:
    """Write a checkpoint of a model that no optimiser has trained here: weights and buffers alone.

    Args:
        folder: where to put it.
        model: on the CPU.
        progress: JSON-able position of the run (step and so on).
    """
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True)
    weights = {
        f"weight|{name}|0": value.detach().float().flatten() for name, value in model.named_parameters()
    }
    write_tensors(partial / "shard-00000.safetensors", weights)
    buffers = {f"model|{name}": value.contiguous() for name, value in saved_buffers(model).items()}
    _describe(partial, buffers, {"optimizer": None, "kinds": ["weight"], "scalars": {}, **progress})
    _replace(folder, partial)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Put a copy of a checkpoint in place of `target` at once."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _replace(target, partial)


def _describe(partial: Path, common: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Write what is the same on all ranks."""
    write_tensors(partial / "common.safetensors", common)
    described = {"format": FORMAT, **content}
    (partial / "state.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


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


# ---------------------------------------------------------------- reading


def read_state(folder: Path) -> dict[str, Any]:
    """Position and counters of a checkpoint.

    Raises:
        CheckpointError: where there is no checkpoint, or one of another format.
    """
    folder = resolve_checkpoint(folder)
    content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: checkpoint format {content.get('format')}, wanted {FORMAT}")
    return content


def forget_metrics(folder: Path) -> int:
    """Take the metrics off a checkpoint, so that a run it is handed to does not count them as its own.

    Returns:
        Its step.
    """
    state = {**read_state(folder), "metrics": None}
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
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
        target = _slice(tensors, fragment)
        target.copy_(reader.read(kind, fragment.name, fragment.offset, fragment.numel))


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
