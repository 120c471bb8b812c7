"""MLflow's database, made once a file of tests."""

from __future__ import annotations

import shutil

import pytest

from rtk.tracking.mirror import Mirror
from tests.tracking.sent_runs import new_run


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """An empty MLflow database; making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("database")
    Mirror(new_run(folder, None)).send()
    return folder / "mlflow.db"


@pytest.fixture
def output(tmp_path, database):
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path
