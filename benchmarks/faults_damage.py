"""A run's checkpoints, damaged in drawn ways: all has to be found before loading, and the one before used."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rtk.runs.checkpoint_faults import faults_of, mend
from rtk.runs.checkpoints import CheckpointError, numbered, resolve_checkpoint, seal
from rtk.train.shard_reader import ShardReader, check_finite

Damage = Callable[[Path, Path, random.Random], None]  # of the last checkpoint, given the one before


def flip_a_bit(last: Path, older: Path, draw: random.Random) -> None:
    """As disks and memory do."""
    path = any_file(last, draw)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def zero_a_block(last: Path, older: Path, draw: random.Random) -> None:
    """A block that was never written."""
    path = any_file(last, draw)
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    block = data[start : start + 4096]
    data[start : start + 4096] = bytes(len(block)) if any(block) else b"\1" * len(block)
    path.write_bytes(data)


def cut(last: Path, older: Path, draw: random.Random) -> None:
    """A half-finished copy."""
    path = any_file(last, draw)
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def lose(last: Path, older: Path, draw: random.Random) -> None:
    """A file that is gone."""
    any_file(last, draw).unlink()


def take_older(last: Path, older: Path, draw: random.Random) -> None:
    """A file of another step; under ZeRO-0 those of all ranks but the first hold nothing, at every step."""
    others = [path for path in older.iterdir() if path.read_bytes() != (last / path.name).read_bytes()]
    shutil.copy(draw.choice(sorted(others)), last)


def swap_ranks(last: Path, older: Path, draw: random.Random) -> None:
    """A rank's shard in another one's place."""
    first, second = sorted(last.glob("shard-*.safetensors"))[:2]
    shutil.copy(first, second)


def mix_manifests(last: Path, older: Path, draw: random.Random) -> None:
    """The manifest of another step."""
    shutil.copy(older / "manifest.json", last / "manifest.json")


def point_elsewhere(last: Path, older: Path, draw: random.Random) -> None:
    """A pointer that is stale, cut or empty."""
    pointer = last.with_name("last.json")
    content = json.loads(pointer.read_text("utf-8"))
    texts = [
        "",
        "{",
        json.dumps({**content, "checkpoint": "00099-step-9"}),
        json.dumps({"checkpoint": last.name}),
    ]
    pointer.write_text(draw.choice([*texts, json.dumps({**content, "checkpoint": older.name})]))


def spoil_weights(last: Path, older: Path, draw: random.Random) -> None:
    """Weights that are no numbers, in a checkpoint that was saved so."""
    path = last / "shard-00000.safetensors"
    tensors = load_file(path)
    name = draw.choice(sorted(name for name in tensors if name.startswith("weight|")))
    tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = draw.choice([float("nan"), float("inf")])
    save_file(tensors, path)
    manifest = json.loads((last / "manifest.json").read_text("utf-8"))
    manifest["files"][path.name] = seal(path)
    (last / "manifest.json").write_text(json.dumps(manifest))
    pointer = last.with_name("last.json")
    record = seal(last / "manifest.json")
    pointer.write_text(json.dumps({"checkpoint": last.name, "manifest": record["sha256"]}))


KINDS: dict[str, Damage] = {
    "a flipped bit": flip_a_bit,
    "a zeroed block": zero_a_block,
    "a cut file": cut,
    "a lost file": lose,
    "a file of another step": take_older,
    "a shard of another rank": swap_ranks,
    "a manifest of another step": mix_manifests,
    "a stale or broken pointer": point_elsewhere,
    "weights that are no numbers": spoil_weights,
}


def any_file(folder: Path, draw: random.Random) -> Path:
    """One of a checkpoint's files."""
    return draw.choice(sorted(folder.iterdir()))


def damage_checkpoints(run: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Damage copies of a run's checkpoints so many times.

    Returns:
        By kind: `count`; how many were `found` before anything was loaded; and `gone_on`, how many of them
        would go on from a whole checkpoint (weights that are no numbers are refused when they are read).
    """
    outcomes: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in KINDS}
    for number in range(count):
        draw, kind = random.Random(f"{seed} {number}"), list(KINDS)[number % len(KINDS)]
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(run / "checkpoints", Path(folder, "checkpoints"))
            outcomes[kind].append(_damaged(Path(folder, "checkpoints", "last"), KINDS[kind], draw))
    return [
        {
            "kind": kind,
            "count": len(each),
            "found": sum(f for f, _ in each),
            "gone_on": sum(g for _, g in each),
        }
        for kind, each in outcomes.items()
    ]


def _damaged(alias: Path, damage: Damage, draw: random.Random) -> tuple[bool, bool]:
    last = resolve_checkpoint(alias)
    older = next(folder for folder in reversed(numbered(alias.parent)) if folder != last)
    damage(last, older, draw)
    if not faults_of(alias):
        return _is_refused(alias), False
    try:
        said = mend(alias)
    except CheckpointError:
        return True, False
    return said is not None, faults_of(alias) == [] and resolve_checkpoint(alias) in (older, last)


def _is_refused(alias: Path) -> bool:
    """Whether a checkpoint without a fault of its files is refused for its weights."""
    reader = ShardReader(resolve_checkpoint(alias))
    try:
        for name, numel in reader.sizes("weight").items():
            check_finite(
                reader.folder, "weight", name, torch.as_tensor(reader.read("weight", name, 0, numel))
            )
    except CheckpointError:
        return True
    return False
