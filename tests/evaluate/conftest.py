"""One small run, trained and evaluated once for all tests that measure one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rtk.config import load_config
from rtk.evaluate.evaluate import evaluate_run
from rtk.runs.folder import RunFolder
from rtk.train.launch import launch_training
from tests.train.ranks import workers_forked

SMALL = ["model.width=4", "data.train_rows=256", "train.duration=4ep", "train.precision=fp32"]


@pytest.fixture(scope="session")
def run(ray_session, tmp_path_factory) -> RunFolder:
    output = tmp_path_factory.mktemp("runs")
    with workers_forked():
        run = launch_training(load_config("digits_demo", [f"output={output}", *SMALL])).run
    evaluate_run(run)
    return run


def copy_of(run, folder) -> RunFolder:
    """The same run with its evaluation, to be evaluated otherwise."""
    return RunFolder(Path(shutil.copytree(run.path, folder / "copy")))
