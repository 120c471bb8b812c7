"""Whole runs: the same weights whatever the workers and interruptions.

Where Ray Train has a part in what is tested (it replaces a killed worker, waits for a lost node), it runs
the workers; elsewhere they are forked ranks, whose start takes no time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache

import psutil
import pytest
import torch
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2
from safetensors.torch import load_file

from rtk.config import ConfigError, load_config
from rtk.models import build_model
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.train.launch import TrainingError, launch_training, resume_training
from rtk.train.shard_reader import load_saved_weights
from tests.train.ranks import workers_forked

pytestmark = pytest.mark.slow

SMALL = [
    "model.width=4",
    "data.train_rows=512",  # steps enough that what happens at the sixth happens before the last
    "train.duration=3ep",
    "train.threads=1",
    "train.precision=fp32",
]
# No batch statistics, so that a batch may be cut; no kinks, which would turn rounding into steps.
SMOOTH = ["model.name=timm/test_vit", "model.width=null"]


@pytest.fixture
def config(tmp_path, ray_session):
    """A small SURE+ run."""
    return lambda *overrides: load_config("digits_demo", [f"output={tmp_path}", *SMALL, *overrides])


def train(config):
    with workers_forked():
        return launch_training(config)


def resume(run, *overrides):
    with workers_forked():
        return resume_training(run, list(overrides))


def weights(run, averaged: bool) -> torch.Tensor:
    model = build_model(run.config().model, 8, 32)
    load_saved_weights(run.checkpoints / "last", model, averaged)
    return torch.cat([value.double().flatten() for value in model.state_dict().values()])


def difference(one, other) -> float:
    return max((weights(one, a) - weights(other, a)).abs().max().item() for a in (True, False))


def when_step(run_folder, step: int, action) -> list:
    """Do something once a run in `run_folder` has passed a step; the list then holds what it returned."""
    done = []

    def watch():
        while True:
            for progress in run_folder.glob("*/progress.json"):
                if json.loads(progress.read_text())["step"] >= step:
                    done.append(action(progress.parent))
                    return
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    return done


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
    children = psutil.Process().children(recursive=True)
    pid = next(child.pid for child in children if "RayTrainWorker" in " ".join(child.cmdline()))
    os.kill(pid, how)
    return pid


def driver_on(cluster, *overrides: str) -> subprocess.Popen[str]:
    """`rtk train` on a cluster, in a process of its own."""
    command = [sys.executable, "-m", "rtk.cli", "train", "digits_demo", *SMALL, *SMOOTH, *overrides]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_lost_node_is_waited_for_and_the_run_ends_the_same(tmp_path, uninterrupted, two_nodes):
    (lost,) = two_nodes.worker_nodes
    gone = when_step(tmp_path, 6, lambda folder: two_nodes.remove_node(lost, allow_graceful=False))
    driver = driver_on(two_nodes, f"output={tmp_path}")
    lines = iter(driver.stderr.readline, "")
    assert any("a node is lost: waiting for 2 workers" in line for line in lines)
    assert len(gone) == 1
    two_nodes.add_node(num_cpus=1)
    assert any("the nodes are back" in line for line in lines)
    assert driver.wait(120) == 0
    (run,) = tmp_path.glob("digits_demo-*")
    assert difference(RunFolder(run), uninterrupted(1, *SMOOTH)) == 0.0


def test_a_node_that_is_to_be_taken_away_has_the_run_save(tmp_path, uninterrupted, two_nodes, fresh_tables):
    (tmp_path / "slow.py").write_text(SLOW)
    files = [f"output={tmp_path / 'runs'}", f"plugins=[{tmp_path / 'slow.py'}]"]
    (lost,) = two_nodes.worker_nodes
    saved = when_step(tmp_path / "runs", 9, lambda folder: take_away(folder, two_nodes, lost))
    driver = driver_on(two_nodes, *files)
    lines = iter(driver.stderr.readline, "")
    assert any("is taken away in" in line and "writing a checkpoint" in line for line in lines)
    assert any("a node is lost: waiting for 2 workers" in line for line in lines)
    two_nodes.add_node(num_cpus=1)
    assert any("the nodes are back" in line for line in lines)
    assert driver.wait(120) == 0
    (folder,) = (tmp_path / "runs").glob("digits_demo-*")
    run = RunFolder(folder)
    assert sum("is taken away" in text for text in run.read_notices()) == 1
    assert 9 < saved[0] < 16  # between two ends of epochs, where nothing else saves
    assert not run.save_requested()
    fresh_tables()
    assert difference(run, uninterrupted(1, *SMOOTH)) == 0.0


def take_away(folder, cluster, node) -> int:
    """Announce that a node goes, wait for a checkpoint within an epoch, take the node; returns its step."""
    gcs = GcsClient(address=cluster.address)
    reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    accepted, why = gcs.drain_node(node.node_id, reason, "a spot machine", int(1000 * (time.time() + 100)))
    assert accepted, why
    while True:
        steps = [int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoints/*-step-*")]
        between = [step for step in steps if step % 8 and (folder / "checkpoints" / "last.json").exists()]
        if between and not (folder / "save").exists():
            cluster.remove_node(node, allow_graceful=False)
            return between[0]
        time.sleep(0.05)


SLOW = """
import time
from rtk import scores
from rtk.runtime.ranks import world_size
from rtk.train import worker

scores.register(scores.Score("largest_logit", lambda logits: logits.amax(1)))
at_full_speed = worker.train_step

def train_step(*arguments):
    time.sleep(0.2 if world_size() > 1 else 2)
    return at_full_speed(*arguments)

worker.train_step = train_step
"""


def test_a_run_goes_on_with_fewer_workers_and_with_more_again(tmp_path, reference, two_nodes, fresh_tables):
    (tmp_path / "slow.py").write_text(SLOW)  # nodes come and go before it has ended
    settings = ["train.workers={min: 1, max: 2}", "train.wait_for_workers=1min", "train.zero_stage=2"]
    settings.append("model.batchnorm=sync")  # it has none; with local statistics a changing number is refused
    files = [f"output={tmp_path / 'runs'}", f"plugins=[{tmp_path / 'slow.py'}]"]
    (lost,) = two_nodes.worker_nodes
    when_step(tmp_path / "runs", 9, lambda folder: two_nodes.remove_node(lost, allow_graceful=False))
    driver = driver_on(two_nodes, *settings, *files)
    lines = iter(driver.stderr.readline, "")
    assert any("training on 1 of 2 workers" in line for line in lines)
    two_nodes.add_node(num_cpus=1)
    assert any("training on 2 of 2 workers" in line for line in lines)
    assert driver.wait(120) == 0
    (folder,) = (tmp_path / "runs").glob("digits_demo-*")
    run = RunFolder(folder)
    assert run.read_notices() == [f"training on {number} of 2 workers" for number in (2, 1, 2)]
    fresh_tables()  # as in the processes of the run, so that its plug-in is loaded
    assert difference(run, reference) <= 1e-5
    steps = [row["step"] for row in run.read_metrics() if row["key"] == "train/lr"]
    assert steps == sorted(set(steps))


def test_non_finite_loss_stops_all_ranks_and_names_the_term(config):
    with pytest.raises(TrainingError, match=r"step \d+: loss term '\w+' is not finite"):
        train(config("optimizer.lr=1e30"))


def test_resume_refuses_other_changes(reference):
    with pytest.raises(ConfigError, match=r"optimizer.lr: 0.05 -> 0.1"):
        resume_training(reference, ["optimizer.lr=0.1"])


def test_more_workers_than_the_cluster_has(config):
    with pytest.raises(ValueError, match=r"train.workers: got 64, wanted at most"):
        launch_training(config("train.workers=64"))
