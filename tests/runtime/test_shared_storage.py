"""What is refused because not every node of a cluster sees it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rtk.config import ConfigError
from rtk.runtime.shared_storage import check_input, check_output, nodes_without

LOOK = """
import sys
from rtk.runtime.ray_session import start_ray
from rtk.runtime.shared_storage import nodes_without
start_ray()
print(len(nodes_without(sys.argv[1])), len(nodes_without("/no/such/file")))
"""


@pytest.mark.slow
def test_other_nodes_are_asked(two_nodes, tmp_path):
    there = tmp_path / "there"
    there.touch()
    answer = subprocess.run(
        [sys.executable, "-c", LOOK, str(there)],
        env={**os.environ, "RAY_ADDRESS": two_nodes.address},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == ["0", "1"]


@pytest.mark.slow
def test_a_node_that_has_just_been_lost_keeps_no_run_from_starting_again(two_nodes, tmp_path):
    """Ray still counts it for a while, and refuses what is to run there."""
    (lost,) = two_nodes.worker_nodes
    lost.kill_raylet(check_alive=False)
    answer = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path)],
        env={**os.environ, "RAY_ADDRESS": two_nodes.address},
        capture_output=True,
        encoding="utf-8",
    )
    assert answer.stdout.split()[-2:] == ["0", "0"], answer.stderr  # Ray says there what has happened


def test_own_node_needs_no_asking(ray_session):
    assert nodes_without("/no/such/file") == []


def test_output_is_made_and_left_empty(ray_session, tmp_path):
    check_output(tmp_path / "new" / "runs")
    assert list((tmp_path / "new" / "runs").iterdir()) == []


def test_output_that_cannot_be_written(ray_session, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"output: cannot write to '.*file/runs'"):
        check_output(tmp_path / "file" / "runs")


def test_output_that_another_node_does_not_see(monkeypatch, tmp_path):
    monkeypatch.setattr("rtk.runtime.shared_storage.nodes_without", lambda file: ["10.0.0.7"])
    with pytest.raises(ConfigError, match=r"output: got .* another folder on node 10\.0\.0\.7; wanted"):
        check_output(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_input_that_another_node_does_not_have(monkeypatch):
    monkeypatch.setattr("rtk.runtime.shared_storage.nodes_without", lambda file: ["10.0.0.7"])
    with pytest.raises(ConfigError, match=r"data.train: '/data/train.parquet' is not on node 10\.0\.0\.7"):
        check_input("data.train", "/data/train.parquet")
