"""Whole runs on two nodes of which one is lost and comes back: the same weights in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2

from rtk.runs.folder import RunFolder
from tests.train.small_runs import SMALL, SMOOTH, difference, when_step

pytestmark = pytest.mark.slow


def start_run(*overrides: str, **variables: str) -> subprocess.Popen[str]:
    """`rtk train` in a process of its own, with such variables in its environment."""
    command = [sys.executable, "-m", "rtk.cli", "train", "digits_demo", *SMALL, *SMOOTH, *overrides]
    environment = {**os.environ, **variables}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def driver_on(cluster, *overrides: str) -> subprocess.Popen[str]:
    """A run on a cluster."""
    return start_run(*overrides, RAY_ADDRESS=cluster.address)


def ended(driver: subprocess.Popen[str], output: Path) -> RunFolder:
    """The only run of a folder, once its driver has ended well."""
    assert driver.wait(120) == 0
    (run,) = output.glob("digits_demo-*")
    return RunFolder(run)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run on this machine alone."""
    output = tmp_path_factory.mktemp("undisturbed")
    driver = start_run(f"output={output}")
    driver.communicate(timeout=120)
    return ended(driver, output)


def test_lost_node_is_waited_for_and_the_run_ends_the_same(tmp_path, undisturbed, two_nodes):
    (lost,) = two_nodes.worker_nodes
    gone = when_step(tmp_path, 6, lambda folder: two_nodes.remove_node(lost, allow_graceful=False))
    driver = driver_on(two_nodes, f"output={tmp_path}")
    lines = iter(driver.stderr.readline, "")
    assert any("a node is lost: waiting for 2 workers" in line for line in lines)
    assert len(gone) == 1
    two_nodes.add_node(num_cpus=1)
    assert any("the nodes are back" in line for line in lines)
    assert difference(ended(driver, tmp_path), undisturbed) == 0.0


def test_a_node_that_is_to_be_taken_away_has_the_run_save(tmp_path, undisturbed, two_nodes, fresh_tables):
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
    run = ended(driver, tmp_path / "runs")
    assert sum("is taken away" in text for text in run.read_notices()) == 1
    assert 9 < saved[0] < 16  # between two ends of epochs, where nothing else saves
    assert not run.save_requested()
    fresh_tables()
    assert difference(run, undisturbed) == 0.0


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


def test_a_run_goes_on_with_fewer_workers_and_with_more_again(tmp_path, undisturbed, two_nodes, fresh_tables):
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
    run = ended(driver, tmp_path / "runs")
    assert run.read_notices() == [f"training on {number} of 2 workers" for number in (2, 1, 2)]
    fresh_tables()  # as in the processes of the run, so that its plug-in is loaded
    assert difference(run, undisturbed) <= 1e-5
    steps = [row["step"] for row in run.read_metrics() if row["key"] == "train/lr"]
    assert steps == sorted(set(steps))
