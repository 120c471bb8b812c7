"""Figures of a run as Prometheus metrics, through Ray: each node's agent offers them to whoever collects.

Ray puts `ray_` before every name. `cluster/grafana.json` is a dashboard of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from rtk.runs.vitals import Rank, stragglers

LOSS = "train/loss/"
CHECKPOINT_AGE = "checkpoint_age"
BYTES_PER_GIB = 2**30

# Name: what it is; the key of `progress.json` or of a rank's vitals; what to multiply that by.
Gauges: TypeAlias = Mapping[str, tuple[str, str, float]]
OF_RUN: Gauges = {
    "rtk_step": ("optimiser steps done", "step", 1),
    "rtk_epoch": ("epochs done", "epoch", 1),
    "rtk_seconds_left": ("time until the run is over, by its mean speed, seconds", "seconds_left", 1),
    "rtk_checkpoint_age_seconds": ("age of the last checkpoint of a run on a file system", CHECKPOINT_AGE, 1),
    "rtk_images_per_second": ("training images a second over all ranks", "train/images_per_second", 1),
    "rtk_data_wait": ("share of the time in which rank 0 waits for data", "train/data_wait", 1),
    "rtk_learning_rate": ("learning rate", "train/lr", 1),
    "rtk_validation_accuracy": ("accuracy of the last validation", "val/accuracy", 1),
    "rtk_validation_aurc": ("AURC of the last validation", "val/aurc", 1),
    "rtk_node_memory_percent": ("memory in use on rank 0's node", "system/node_memory_percent", 1),
}
OF_TERM = {"rtk_loss": "mean loss of a term of the objective"}
OF_RANK: Gauges = {
    "rtk_rank_data_wait": ("share of the time in which a rank waits for data", "data_wait", 1),
    "rtk_rank_collective": ("share of the time in which a rank stands in collectives", "collective", 1),
    "rtk_rank_memory_bytes": ("memory of a rank", "memory_gib", BYTES_PER_GIB),
    "rtk_rank_gpu_memory_bytes": (
        "most memory of its GPU that a rank has had",
        "gpu_memory_gib",
        BYTES_PER_GIB,
    ),
    "rtk_rank_silent_seconds": ("time in which a rank has got nowhere", "silent", 1),
    "rtk_rank_straggler": ("1 where the others wait for a rank", "straggler", 1),
}

Sample: TypeAlias = tuple[str, float, dict[str, str]]  # name, value, tags


def samples(run: str, progress: Mapping[str, Any], ranks: Sequence[Rank]) -> Iterator[Sample]:
    """Values of all gauges that are known.

    Args:
        run: name of the run.
        progress: content of `progress.json`.
        ranks: as in `vitals.json`.
    """
    tags = {"run": run}
    yield from _known(OF_RUN, progress, tags)
    for key, value in progress.items():
        if key.startswith(LOSS):
            yield "rtk_loss", float(value), {**tags, "term": key.removeprefix(LOSS)}
    slow = stragglers(ranks)
    for rank in ranks:
        of_rank = {**rank, "straggler": float(rank["rank"] in slow)}
        yield from _known(OF_RANK, of_rank, {**tags, "rank": str(rank["rank"])})


def _known(gauges: Gauges, values: Mapping[str, Any], tags: dict[str, str]) -> Iterator[Sample]:
    for name, (_, key, factor) in gauges.items():
        if values.get(key) is not None:
            yield name, float(values[key]) * factor, tags


class Exporter:
    """Ray's gauges of this process, each made when it is first set."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def export(self, run: str, progress: Mapping[str, Any], ranks: Sequence[Rank]) -> None:
        """Set all gauges; without Ray nothing is done."""
        import ray

        if ray.is_initialized():
            for name, value, tags in samples(run, progress, ranks):
                self._gauge(name, tuple(tags)).set(value, tags)

    def _gauge(self, name: str, tags: tuple[str, ...]) -> Any:
        from ray.util.metrics import Gauge

        if name not in self._gauges:
            self._gauges[name] = Gauge(name, description(name), tag_keys=tags)
        return self._gauges[name]


def description(name: str) -> str:
    """What a gauge is."""
    return OF_TERM[name] if name in OF_TERM else {**OF_RUN, **OF_RANK}[name][0]
