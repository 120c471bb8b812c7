"""One config with several seeds, one run after the other, each trained as far as it is not yet."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rtk.config.changes import When, may_change
from rtk.config.errors import ConfigError
from rtk.config.load import flatten
from rtk.config.plugin_files import plugin_hashes
from rtk.config.schema import RunConfig
from rtk.runs.checkpoints import has_checkpoint
from rtk.runs.data_record import DataRecord
from rtk.runs.folder import RunFolder, is_held
from rtk.runs.listing import status_of
from rtk.runs.names import check_name, seed_run_name
from rtk.runs.stored_checkpoints import pull_checkpoints, remove_folder
from rtk.runs.working_copy import local_folder, pull
from rtk.tracking.sending import mirrored
from rtk.train.checkpoint import read_state
from rtk.train.going_on import mend_checkpoints
from rtk.train.initial import with_placed_weights
from rtk.train.launch import TrainingError, launch_training, open_for_training, resume_training, total_steps


@dataclass(frozen=True)
class SeedRun:
    """The run of a seed.

    Attributes:
        seed: of the run.
        run: its folder.
        status: `finished`, `interrupted` (by `signal`, where it was one) or `failed`.
        reason: why it failed.
    """

    seed: int
    run: RunFolder
    status: str
    reason: str = ""
    signal: int | None = None


def train_seeds(config: RunConfig, seeds: Sequence[int], name: str) -> list[SeedRun]:
    """Train a config with each seed, in runs `{name}-seed{seed}`; what is done of them already is kept.

    Args:
        config: what is trained; its own seed is not used.
        seeds: of the runs, in their order.
        name: of the group.

    Returns:
        A run for each seed; of an interrupt on, there are no more. A run that fails does not keep the next
        one from being trained.

    Raises:
        ConfigError: config, data or cluster do not fit, or there are runs of these names with other values.
    """
    config = with_placed_weights(config)  # as it is written down
    configs = {seed: config.model_copy(update={"seed": seed}) for seed in seeds}
    runs = {seed: _folder(config, seed_run_name(name, seed)) for seed in seeds}
    if (_folder(config, name).path / "config.yaml").exists():
        raise ConfigError(f"--seeds: {name!r} is the name of a run, wanted another --name for several")
    for seed, run in runs.items():
        refuse_other(run, configs[seed])
    found: list[SeedRun] = []
    for seed, run in runs.items():
        print(f"seed {seed} ({len(found) + 1} of {len(runs)}): {run.name}", file=sys.stderr, flush=True)
        found.append(_train(seed, run, configs[seed]))
        if found[-1].status == "interrupted":
            break
    return found


def refuse_other(run: RunFolder, config: RunConfig) -> None:
    """Refuse a run that is there already, but of a config that differs in more than what is incidental.

    Raises:
        ConfigError: naming the keys, with both values; or its folder is none of a run.
    """
    if not (run.path / "config.yaml").exists():
        if run.path.exists() and any(not path.is_dir() for path in run.path.rglob("*")):
            raise ConfigError(f"--seeds: {run.place} exists already and is no run")
        return
    before, after = _kind(run.stored_config()), _kind(config)
    if config.train.zero_stage == "auto":  # the run has the one that was chosen for it
        after["train.zero_stage"] = before["train.zero_stage"]
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    if changed:
        diff = ", ".join(f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in changed)
        raise ConfigError(f"--seeds: {run.name} is there with other values ({diff}), wanted another --name")


def train_to_end(run: RunFolder, config: RunConfig) -> tuple[str, int | None]:
    """Train a run from where it stands: from the start, from its last checkpoint, or not at all.

    Args:
        run: its folder, which may not be there.
        config: of the run.

    Returns:
        `finished` or `interrupted`, and the number of the signal where it was one.

    Raises:
        ConfigError, TrainingError: as `launch_training` and `resume_training`.
    """
    if status_of(run) == "finished":
        return "finished", None
    mend_checkpoints(run)
    if not has_checkpoint(run.checkpoints / "last"):
        _remove(run)
        outcome = launch_training(config, run.name)
        return outcome.status, outcome.signal
    sets = open_for_training(run.config(), DataRecord.read(run.path))
    if read_state(run.checkpoints / "last")["step"] >= total_steps(config, sets.train):
        with mirrored(run):  # it was killed before it could say that it has finished
            return "finished", None
    outcome = resume_training(run, [])
    return outcome.status, outcome.signal


def _train(seed: int, run: RunFolder, config: RunConfig) -> SeedRun:
    try:
        status, signal = train_to_end(run, config)
    except TrainingError as error:
        print(f"seed {seed} failed: {error}", file=sys.stderr, flush=True)
        return SeedRun(seed, run, "failed", str(error))
    return SeedRun(seed, run, status, signal=signal)


def _remove(run: RunFolder) -> None:
    """Delete what a process has left that ended before it had anything to go on from."""
    if run.path.exists():
        if is_held(run.path):
            raise ConfigError(f"run: {run.name} is being run by another process")
        remove_folder(run.path)
        shutil.rmtree(run.path)


def _folder(config: RunConfig, name: str) -> RunFolder:
    check_name(name)
    run = RunFolder(local_folder(config.output) / name)
    pull(run.path)
    pull_checkpoints(run.checkpoints)
    return run


def _kind(config: RunConfig) -> dict[str, Any]:
    """What runs of one kind have in common, by dotted key; of plug-ins the content."""
    tree = {**config.model_dump(mode="json"), "plugins": plugin_hashes(config.plugins)}
    return {key: value for key, value in flatten(tree) if not may_change(key, When.INCIDENTAL)}
