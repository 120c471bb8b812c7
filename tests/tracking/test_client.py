"""A run's tracking server, reached before the run has begun."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from mlflow import MlflowClient

from rtk.tracking.client import connect, reach_early
from rtk.tracking.names import uri_of_output


def reached() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mlflow"]


def test_a_database_is_made_once_for_who_comes_early_and_who_comes_then(tmp_path):
    uri = uri_of_output(tmp_path)
    reach_early(uri)
    client = connect(uri)  # while it is being made
    assert client.get_experiment_by_name("Default") is not None
    for thread in reached():
        thread.join(60)
    assert (tmp_path / "mlflow.db").is_file()


def test_a_process_that_ends_has_made_its_database_whole(tmp_path):
    uri = uri_of_output(tmp_path)
    program = f"from rtk.tracking.client import reach_early; reach_early({uri!r}); raise KeyboardInterrupt"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=120)
    assert ended.returncode != 0
    assert MlflowClient(uri).get_experiment_by_name("Default") is not None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nothing://at.all"])
def test_a_server_that_is_not_there_keeps_nobody(uri):
    reach_early(uri)
    for thread in reached():
        assert thread.daemon
        thread.join(60)
        assert not thread.is_alive()
