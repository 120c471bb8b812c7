"""How runs of `faults.py` have ended: what their checkpoints and metrics differ in from those wanted."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from faults_runs import Row, environment
from safetensors.torch import load_file
from torch import Tensor

from rtk.runs.checkpoint_faults import faults_of
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.train.shard_reader import ShardReader

ALIASES = ("last", "best")
STEPS_PER_EPOCH = 8
CLOSE = 1e-5  # largest difference of any element, where the number of workers has changed
CLOSE_METRICS = 1e-4


def from_elsewhere(place: str, folder: Path, wanted: RunFolder) -> Row:
    """As `differences`, as a machine sees them that has never heard of the run.

    Args:
        place: URI of the run.
        folder: where that machine may keep its working copy.
        wanted: the undisturbed run.
    """
    with environment({"RTK_CACHE": str(folder)}):
        found = differences(RunFolder.open(place), wanted)
    shutil.rmtree(folder)
    return found


def differences(run: RunFolder, wanted: RunFolder) -> Row:
    """Files of the last and best checkpoint that are not the wanted run's, and metrics that are not."""
    differing = missing(run, wanted)
    for alias in ALIASES:
        found, expected = (hashes(each, alias) for each in (run, wanted))
        differing += [f"{alias}: {name}" for name in expected if found.get(name) != expected[name]]
        differing += [f"{alias}: {fault}" for fault in faults_of(run.checkpoints / alias)]
    return {"differing": differing, "rows": differing_rows(run, wanted)}


def missing(run: RunFolder, wanted: RunFolder) -> list[str]:
    """Small files that a run has lost."""
    names = ("config.yaml", "environment.json", "best.json")
    return [name for name in names if (wanted.path / name).exists() and not (run.path / name).exists()]


def hashes(run: RunFolder, alias: str) -> dict[str, str]:
    """SHA-256 of a checkpoint's tensors, by file; and its step."""
    folder = resolve_checkpoint(run.checkpoints / alias)
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    files = {n: f["sha256"] for n, f in manifest["files"].items() if n.endswith(".safetensors")}
    return {**files, "step": str(manifest["step"])}


def nearly_differences(run: RunFolder, wanted: RunFolder) -> Row:
    """As `differences`, of runs whose numbers of workers were not the same: to rounding.

    Returns:
        `difference` too, the largest of any element.
    """
    differing, largest = missing(run, wanted), 0.0
    for alias in ALIASES:
        found, expected = (tensors(each, alias) for each in (run, wanted))
        differing += [f"{alias}: {name}" for name in found.keys() ^ expected.keys()]
        apart = {name: distance(found[name], expected[name]) for name in found.keys() & expected.keys()}
        differing += [f"{alias}: {name}" for name, value in apart.items() if not value <= CLOSE]
        differing += [f"{alias}: {fault}" for fault in faults_of(run.checkpoints / alias)]
        largest = max(largest, *apart.values())
    apart_rows = differing_rows(run, wanted, CLOSE_METRICS)
    return {"differing": sorted(differing), "rows": apart_rows, "difference": largest}


def distance(one: Tensor, other: Tensor) -> float:
    """Largest difference of two tensors' elements."""
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def tensors(run: RunFolder, alias: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint, whole, however many workers have written it; and its step."""
    folder = resolve_checkpoint(run.checkpoints / alias)
    reader, found = ShardReader(folder), load_file(folder / "common.safetensors")
    for kind, name in reader.index:
        numel = sum(part[1] for part in reader.index[kind, name])
        found[f"{kind}|{name}"] = reader.read(kind, name, 0, numel)
    return {**found, "step": Tensor([float(hashes(run, alias)["step"])])}


def differing_rows(run: RunFolder, wanted: RunFolder, tolerance: float = 0.0) -> list[str]:
    """Metrics that are missing, there twice, or of another value than those of the run wanted."""
    found, expected = rows(run), {row[:2]: row[2] for row in rows(wanted)}
    count = Counter(row[:2] for row in found)
    wrong = {key for key, times in count.items() if times > 1} | (expected.keys() - count.keys())
    wrong |= {row[:2] for row in found if not abs(row[2] - expected.get(row[:2], math.nan)) <= tolerance}
    return sorted(map(str, wrong))[:5]


def rows(run: RunFolder) -> Sequence[tuple[int, str, float]]:
    """What does not depend on the clock, at the ends of epochs: the rows between begin anew after a fault."""
    of_run = [row for row in run.read_metrics() if row["key"].startswith(("val/", "train/lr"))]
    return [(row["step"], row["key"], row["value"]) for row in of_run if row["step"] % STEPS_PER_EPOCH == 0]
