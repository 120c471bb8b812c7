"""Whole runs: the same weights whatever the workers and interruptions.

Where Ray Train has a part in what is tested (it replaces a killed worker), it runs the workers; elsewhere
they are forked ranks, whose start takes no time.
"""

from __future__ import annotations

import os
import signal
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from rtk.config import ConfigError, load_config
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.train.launch import TrainingError, launch_training, resume_training
from tests.ray_processes import process_of
from tests.train.small_runs import SMALL, SMOOTH, difference, resume, train, when_step

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path, ray_session):
    """A small SURE+ run."""
    return lambda *overrides: load_config("digits_demo", [f"output={tmp_path}", *SMALL, *overrides])


@pytest.fixture(scope="module")
def uninterrupted(ray_session, tmp_path_factory):
    """The run on two workers under a ZeRO stage that nothing disturbs."""

    @cache
    def run(stage: int, *overrides: str):
        changes = [f"output={tmp_path_factory.mktemp('straight')}", f"train.zero_stage={stage}"]
        return train(load_config("digits_demo", [*changes, *SMALL, *overrides])).run

    return run


@pytest.fixture(scope="module")
def reference(uninterrupted):
    return uninterrupted(1, *SMOOTH)


def test_one_worker_ends_with_the_weights_of_two(config, reference):
    one = train(config(*SMOOTH, "train.workers=1")).run
    assert difference(one, reference) <= 1e-5


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_every_zero_stage_ends_with_the_same_weights(uninterrupted, reference, stage):
    assert difference(uninterrupted(stage, *SMOOTH), reference) <= 1e-5


def test_interrupted_and_resumed_equals_uninterrupted(config, tmp_path, uninterrupted):
    """With the recipe's ResNet, whose BatchNorm statistics have to be carried too."""
    when_step(tmp_path, 6, lambda folder: (folder / "stop").touch())
    stopped = train(config())
    assert stopped.status == "interrupted"
    resumed = resume(stopped.run)
    assert resumed.status == "finished"
    assert difference(resumed.run, uninterrupted(1)) == 0.0
    steps = [row["step"] for row in resumed.run.read_metrics() if row["key"] == "train/lr"]
    assert steps == sorted(set(steps))


def test_resumed_on_another_number_of_workers_and_zero_stage(config, tmp_path, reference, capsys):
    """From the checkpoint before the last, which is damaged."""
    when_step(tmp_path, 9, lambda folder: (folder / "stop").touch())  # in the second epoch of eight steps
    stopped = train(config(*SMOOTH, "train.zero_stage=auto"))
    assert stopped.status == "interrupted"
    assert stopped.run.config().train.zero_stage == 0  # all of so small a model fits
    shard = resolve_checkpoint(stopped.run.checkpoints / "last") / "shard-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-100] ^= 64
    shard.write_bytes(damaged)
    resumed = resume(stopped.run, "train.workers=1", "train.zero_stage=2")
    assert (
        "shard-00000.safetensors: not what was written, by its SHA-256; going on" in capsys.readouterr().err
    )
    assert difference(resumed.run, reference) <= 1e-5


@pytest.mark.parametrize(
    ("stage", "more", "how"),
    [(1, ["objective.crl.weight=1"], signal.SIGKILL), (2, [], signal.SIGSTOP), (3, [], signal.SIGKILL)],
)
def test_lost_worker_is_replaced_and_the_run_ends_the_same(
    config, tmp_path, uninterrupted, stage, more, how, capsys
):
    """With CRL, which remembers how often each image was right, in one of them; one stops and hangs."""
    output, changes = tmp_path / "killed", [*SMOOTH, *more]
    dead = when_step(output, 6, lambda folder: _signal_a_worker(how))
    settings = [f"output={output}", f"train.zero_stage={stage}", "train.hang_timeout=8s"]
    killed = launch_training(config(*changes, *settings))
    assert len(dead) == 1
    assert killed.status == "finished"
    hangs = [notice for notice in killed.run.read_notices() if notice.startswith("hung: ")]
    assert len(hangs) == capsys.readouterr().err.count("hung: ") == (how == signal.SIGSTOP)
    assert all(f"(process {dead[0]}) stopped" in notice for notice in hangs)
    wanted = uninterrupted(stage, *changes)
    assert difference(killed.run, wanted) == 0.0
    found, expected = history(killed.run), history(wanted)
    assert found.keys() == expected.keys() == ({"right", "seen", "steps"} if more else set())
    assert all(torch.equal(found[name], values) for name, values in expected.items())


def history(run) -> dict[str, torch.Tensor]:
    """What CRL remembers of every image, in a run's last checkpoint."""
    common = resolve_checkpoint(run.checkpoints / "last") / "common.safetensors"
    tensors = load_file(common)
    return {key.rpartition("|")[2]: values for key, values in tensors.items() if key.startswith("term|crl|")}


def _signal_a_worker(how: signal.Signals) -> int:
    pid = process_of("RayTrainWorker")
    os.kill(pid, how)
    return pid


def test_non_finite_loss_stops_all_ranks_and_names_the_term(config):
    with pytest.raises(TrainingError, match=r"step \d+: loss term '\w+' is not finite"):
        train(config("optimizer.lr=1e30"))


def test_resume_refuses_other_changes(reference):
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.05 -> 0.1"):
        resume_training(reference, ["optimizer.lr=0.1"])


def test_more_workers_than_the_cluster_has(config):
    with pytest.raises(ValueError, match=r"train.workers: got 64, wanted at most"):
        launch_training(config("train.workers=64"))
